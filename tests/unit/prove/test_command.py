"""`prove` as a process: what it writes, how it resumes, and its exit codes."""

import json

import pytest

from support.command_line import run
from support.engine import checkpoint_in


@pytest.mark.timeout(300)  # three processes that load torch
def test_a_stopped_run_goes_on_and_only_whole_proof_ends_with_0(tmp_path, tiny_checkpoint):
    checkpoint_in(tmp_path / "models", tiny_checkpoint)
    shell = {
        "ANIME_STUDIO_RECIPE": "tiny-random",
        "ANIME_STUDIO_MODELS_DIR": "models",
        "ANIME_STUDIO_DEVICE": "cpu",
    }

    first = run("prove", "--local", "--row", "device", cwd=tmp_path, **shell)
    assert first.returncode == 0, first.stderr
    (device,) = json.loads((tmp_path / "prove" / "report.json").read_text())["rows"]

    whole = run("prove", "--local", "--json", cwd=tmp_path, **shell)
    rows = {row["name"]: row for row in json.loads(whole.stdout)["rows"]}
    assert list(rows) == ["versions", "weights", "device", "fast", "samplers", "decoders"]
    assert rows["device"] == device
    assert "5 rows hold, 1 was not checked" in (tmp_path / "prove" / "report.html").read_text()
    assert rows["decoders"]["verdict"] == "not checked"
    assert whole.returncode == 1
    assert "data:image/png;base64," in (tmp_path / "prove" / "report.html").read_text()

    shell["ANIME_STUDIO_ACCELERATE"] = "false"
    other = run("prove", "--local", "--row", "device", "--json", cwd=tmp_path, **shell)
    assert [row["name"] for row in json.loads(other.stdout)["rows"]] == ["device"], (
        "other settings, another proof"
    )


def test_wrong_use_is_told_in_words(tmp_path):
    unknown = run("prove", "--local", "--row", "nope", cwd=tmp_path)
    assert unknown.returncode == 2
    assert "there are: versions" in unknown.stderr
