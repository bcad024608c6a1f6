"""`doctor` says whether the GPU's memory holds the recipe, by the rule of a start. The driver's tool is a script here."""

import json
import os
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from anime_studio.cli import app
from anime_studio.cli.doctor import CONTEXT_MIB
from support.engine import checkpoint_in

Findings = dict[str, dict[str, str]]


@pytest.fixture
def machine(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a GPU and checkpoints of two recipes, whose files are the tiny one's."""
    for variable in ("MODELS_DIR", "DATA_DIR"):
        monkeypatch.setenv(f"ANIME_STUDIO_{variable}", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    checkpoint_in(tmp_path, tiny_checkpoint)
    shutil.copytree(tiny_checkpoint, tmp_path / "fastwan-3step" / "rev-0")
    return tmp_path


def look(machine: Path, told: str, recipe: str = "fastwan-3step") -> Findings:
    """Return what `doctor` finds where the driver tells *told* of free and whole memory, in MiB, and capability."""
    tool = machine / "bin" / "nvidia-smi"
    tool.parent.mkdir(exist_ok=True)
    tool.write_text(
        f'#!/bin/sh\ncase "$*" in *memory.free*) echo "{told}" ;; *) echo "GPU 0: NVIDIA (UUID: GPU-1)" ;; esac\n'
    )
    tool.chmod(0o755)
    words = ["doctor", "--json", "--recipe", recipe, "--url", "http://127.0.0.1:9"]
    answer = CliRunner().invoke(app, words)
    return {finding["name"]: finding for finding in json.loads(answer.stdout)}


def test_it_says_what_is_needed_and_what_is_free(machine):
    found = look(machine, f"{20480 + CONTEXT_MIB}, 24576, 8.9")["gpu-free"]
    assert (found["state"], found["remedy"]) == ("ok", None)
    assert "20.0 of 24.0 GiB of the GPU's memory are free; recipe fastwan-3step needs 5.1" in found["detail"]


def test_what_else_uses_the_card_is_a_note_because_it_may_be_the_studio_itself(machine):
    found = look(machine, f"{3072 + CONTEXT_MIB}, 24576, 8.9")["gpu-free"]
    assert found["state"] == "note"
    assert "needs 5.1 GiB" in found["detail"] and "3.0 of 24.0 GiB are free" in found["detail"]
    assert "close what else uses it, or set ANIME_STUDIO_DECODER=light" in found["detail"]


def test_a_card_that_can_never_hold_it_lacks_something(machine):
    found = look(machine, "3900, 4096, 8.6")["gpu-free"]
    assert found["state"] == "missing"
    assert "needs 6.2 GiB" in found["detail"], "weights in two bytes: the card does not multiply e4m3"
    assert "close what else" not in found["detail"]


def test_the_text_encoder_counts_where_it_is_on_the_card(machine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ANIME_STUDIO_TEXT", "gpu")
    monkeypatch.setattr("anime_studio.cli.doctor.text_encoder_bytes", lambda *_: 11 * 1024**3)
    found = look(machine, "12000, 12288, 8.9")["gpu-free"]
    assert found["state"] == "missing"
    assert "11.0 of them for the text encoder" in found["detail"]
    assert "ANIME_STUDIO_TEXT=cpu" in found["detail"]


@pytest.mark.parametrize(
    ("told", "recipe"), [("20480, 24576, 8.9", "tiny-random"), ("[N/A], [N/A], 8.9", "fastwan-3step")]
)
def test_where_nothing_was_measured_or_told_it_says_nothing(machine, told: str, recipe: str):
    found = look(machine, told, recipe)
    assert found["weights"]["state"] == "ok"
    assert "gpu-free" not in found


def test_it_does_not_look_at_a_card_that_the_settings_do_not_use(machine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ANIME_STUDIO_DEVICE", "cpu")
    assert "gpu-free" not in look(machine, "3072, 24576, 8.9")
