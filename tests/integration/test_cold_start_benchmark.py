"""The cold-start benchmark runs from end to end where there is no GPU; its times at a tiny shape mean nothing."""

import json
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "cold_start.py"


def test_every_way_to_be_ready_has_its_row(tmp_path):
    command = [sys.executable, str(BENCHMARK), "--cpu", "--cycles", "1", "--out", str(tmp_path / "results")]

    done = subprocess.run(command, capture_output=True, text=True, env={"OMP_NUM_THREADS": "1", "PATH": ""})

    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert not [key for key in result if key.endswith("error_message")]
    assert not [row for row in result["loading"] if "error_message" in row]
    assert result.keys() >= {"device", "date", "commit", "versions"}
    assert [row["way"] for row in result["readiness"]] == [
        "resume a snapshot", "prepared layout", "safetensors alone", "main memory, pageable", "main memory, pinned",
        "plain checkpoint",
    ]  # fmt: skip
    assert not (tmp_path / "results").exists(), "a tiny shape is no result"


def test_a_step_that_fails_says_so_and_the_others_go_on(tmp_path):
    command = [sys.executable, str(BENCHMARK), "--cpu", "--cycles", "1", "--deadline-s", "0"]

    done = subprocess.run(command, capture_output=True, text=True, env={"OMP_NUM_THREADS": "1", "PATH": ""})

    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["cycles"] == 1
    late = [row for row in result["loading"] if "no time was left" in row.get("error_message", "")]
    assert len(late) >= 4
