"""The cold-start benchmark runs from end to end where there is no GPU; its times at a tiny shape mean nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "benchmarks.startup.cold_start", "--cpu", "--cycles", "1"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"OMP_NUM_THREADS": "1", "PATH": ""}
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, env=environment, cwd=ROOT)


@pytest.mark.timeout(420)  # eleven processes that import torch, one after another
def test_every_way_to_be_ready_has_its_row(tmp_path):
    done = run("--out", str(tmp_path / "results"))

    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert not [key for key in result if key.endswith("error_message")]
    assert not [row for row in result["loading"] if "error_message" in row]
    assert [row["start"] for row in result["starts"]] == ["cpu", "plain", "text", "clip"]
    assert result.keys() >= {"device", "date", "commit", "versions"}
    assert [row["way"] for row in result["readiness"]] == [
        "resume a snapshot", "prepared layout", "safetensors alone", "host memory, pageable", "host memory, pinned",
        "plain checkpoint",
    ]  # fmt: skip
    assert result["readiness_s"].keys() == {"gpu", "cpu", "plain"}
    assert result["readiness_s"]["gpu"].keys() == result["readiness_s"]["cpu"].keys() == {"0.2", "3", "6"}
    assert result["text"].keys() >= {
        "32", "64", "128", "error", "error_outliers", "error_outliers_bf16", "snapshot_bytes",
    }  # fmt: skip
    assert 0 < result["text"]["error"] < result["text"]["error_outliers"]
    assert result["clip_s"].keys() >= {"text_cpu", "text_gpu", "queue_of_ten"}
    queue = result["clip_s"]["queue_of_ten"]
    assert len(queue["clip_runs_s"]) == len(queue["text_runs_s"]) == len(queue["drawing_runs_s"]) == 10
    assert queue["ratio"] == pytest.approx(queue["clip_s"] / queue["drawing_s"])
    assert not (tmp_path / "results").exists(), "a tiny shape is no result"


def test_a_way_without_time_has_an_error_in_its_row_and_the_others_go_on():
    done = run("--deadline-s", "0")

    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["cycles"] == 1
    late = [row for row in result["loading"] if "no time was left" in row.get("error_message", "")]
    assert len(late) >= 4
    assert [result[f"start_{kind}_error_message"] for kind in ("cpu", "plain", "text", "clip")] == [
        "no time was left"
    ] * 4
    assert result["queue_of_ten_error_message"] == "no time was left"
