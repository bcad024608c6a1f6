"""`doctor` says of the prepared form what a start would make of it, and which command mends it."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from anime_studio import weights
from anime_studio.cli import app

PREPARE = "anime-studio weights prepare --recipe tiny-random"
FORM = "random-0.plain-float32-v1"


@pytest.fixture
def base(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ANIME_STUDIO_MODELS_DIR", str(tmp_path))
    monkeypatch.setenv("ANIME_STUDIO_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("ANIME_STUDIO_DEVICE", "cpu")
    shutil.copytree(tiny_checkpoint, tmp_path / "tiny-random" / "random-0")
    return tmp_path / "tiny-random"


def look() -> dict[str, dict[str, str]]:
    words = ["doctor", "--json", "--recipe", "tiny-random", "--url", "http://127.0.0.1:9"]
    told = CliRunner().invoke(app, words)
    return {finding["name"]: finding for finding in json.loads(told.stdout)}


def prepare() -> None:
    done = CliRunner().invoke(app, ["weights", "prepare", "--recipe", "tiny-random"])
    assert done.exit_code == 0, done.stderr


def test_without_a_form_it_names_the_command_and_with_one_its_size(base):
    before = look()["prepared"]
    prepare()
    after = look()["prepared"]

    assert (before["state"], before["remedy"]) == ("note", PREPARE)
    assert f"no {FORM}" in before["detail"]
    assert (after["state"], after["remedy"]) == ("ok", None)
    size = sum(entry["size_bytes"] for entry in weights.read_manifest(base / FORM).values())
    assert f"{FORM}, {size / 1e6:,.1f} MB" in after["detail"]


def drop_manifest(form: Path) -> None:
    (form / weights.MANIFEST).unlink()


def cut_shard(form: Path) -> None:
    path = form / "vae" / "00001.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def replace_source(form: Path) -> None:
    source = form.with_name("random-0")
    (source / "model_index.json").write_text((source / "model_index.json").read_text() + "\n")
    weights.write_manifest(source)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (drop_manifest, "manifest.json is missing"),
        (cut_shard, "vae/00001.safetensors has"),
        (replace_source, "was prepared from other bytes"),
    ],
)
def test_a_damaged_or_stale_form_is_a_note_with_the_command_that_mends_it(
    base: Path, damage: Callable[[Path], None], said: str
):
    prepare()
    damage(base / FORM)

    found = look()["prepared"]
    prepare()

    assert said in found["detail"] and "loads the source instead" in found["detail"]
    assert (found["state"], found["remedy"]) == ("note", PREPARE)
    assert look()["prepared"]["state"] == "ok"


def test_a_form_for_other_settings_or_of_another_version_is_told(base, monkeypatch):
    prepare()
    (base / FORM).rename(base / "random-0.plain-float32-v0")
    monkeypatch.setenv("ANIME_STUDIO_DEVICE", "cuda")

    found = look()["prepared"]

    assert "no random-0.int8-bfloat16-v1" in found["detail"]
    assert "there is random-0.plain-float32-v0" in found["detail"]


def test_an_unfinished_form_is_told(base):
    (base / f"{FORM}.partial").mkdir()

    assert "was interrupted" in look()["prepared"]["detail"]


def test_a_damaged_source_and_a_damaged_form_are_named_together(base):
    prepare()
    cut_shard(base / FORM)
    (base / "random-0" / "model_index.json").unlink()

    found = look()

    assert found["weights"]["state"] == "missing"
    assert "random-0/model_index.json is missing" in found["weights"]["detail"]
    assert f"{FORM}/vae/00001.safetensors" in found["weights"]["detail"]
    assert "prepared" not in found


@pytest.mark.parametrize(
    ("capability", "form"),
    [("8.9\\n8.9", "int8-bfloat16"), ("7.5", "plain-bfloat16"), ("[Not Supported]", "plain-float32")],
)
def test_the_form_it_looks_for_is_the_gpus(base, tmp_path, monkeypatch, capability, form):
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\nprintf "{capability}\\n"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("ANIME_STUDIO_DEVICE", "auto")

    assert f"no random-0.{form}-v1" in look()["prepared"]["detail"]
