"""`doctor` finds what a start would make of a prepared checkpoint, and the command that fixes it."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from anime_studio.checkpoints.manifest import MANIFEST, Manifest
from anime_studio.checkpoints.pipeline_files import text_encoder_bytes
from anime_studio.cli import app, doctor
from anime_studio.engine.acceleration import packing_for
from support.engine import checkpoint_in, cut
from support.upscaler import add_upscaler

PREPARE = "anime-studio weights prepare --recipe tiny-random"
PREPARED = "random-0.plain-float32-v1"


@pytest.fixture
def base(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ANIME_STUDIO_MODELS_DIR", str(tmp_path))
    monkeypatch.setenv("ANIME_STUDIO_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("ANIME_STUDIO_DEVICE", "cpu")
    return checkpoint_in(tmp_path, tiny_checkpoint).folder.parent


def look() -> dict[str, dict[str, str]]:
    words = ["doctor", "--json", "--recipe", "tiny-random", "--url", "http://127.0.0.1:9"]
    answer = CliRunner().invoke(app, words)
    return {finding["name"]: finding for finding in json.loads(answer.stdout)}


def prepare() -> None:
    done = CliRunner().invoke(app, ["weights", "prepare", "--recipe", "tiny-random"])
    assert done.exit_code == 0, done.stderr


def test_without_a_prepared_checkpoint_it_names_the_command_and_with_one_its_size(base):
    before = look()["prepared"]
    prepare()
    after = look()["prepared"]

    assert (before["state"], before["remedy"]) == ("note", PREPARE)
    assert f"no {PREPARED}" in before["detail"]
    assert (after["state"], after["remedy"]) == ("ok", None)
    size_mb = Manifest.read(base / PREPARED).size_bytes / 1e6
    assert f"{PREPARED}, {size_mb:,.1f} MB" in after["detail"]


def drop_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def cut_shard(folder: Path) -> None:
    cut(folder / "vae" / "00001.safetensors")


def replace_source(folder: Path) -> None:
    source = folder.with_name("random-0")
    (source / "model_index.json").write_text((source / "model_index.json").read_text() + "\n")
    Manifest.of(source).write(source)


@pytest.mark.parametrize(
    ("damage", "detail"),
    [
        (drop_manifest, "manifest.json is missing"),
        (cut_shard, "vae/00001.safetensors has"),
        (replace_source, "was prepared from other bytes"),
    ],
)
def test_a_damaged_or_stale_one_is_a_note_with_the_command_that_fixes_it(
    base: Path, damage: Callable[[Path], None], detail: str
):
    prepare()
    damage(base / PREPARED)

    found = look()["prepared"]
    prepare()

    assert detail in found["detail"] and "loads the source instead" in found["detail"]
    assert (found["state"], found["remedy"]) == ("note", PREPARE)
    assert look()["prepared"]["state"] == "ok"


def test_one_for_other_settings_or_of_another_version_is_named(base, monkeypatch):
    prepare()
    (base / PREPARED).rename(base / "random-0.plain-float32-v0")
    monkeypatch.setenv("ANIME_STUDIO_DEVICE", "cuda")

    found = look()["prepared"]

    assert "no random-0.plain-bfloat16-v1" in found["detail"]
    assert "there is random-0.plain-float32-v0" in found["detail"]


def test_1080p_that_is_offered_and_cannot_be_drawn_is_said(base, monkeypatch):
    assert "sizes" not in look()
    monkeypatch.setenv("ANIME_STUDIO_UPSCALER", "true")
    assert "random-0, which a start loads, has no upscaler" in look()["sizes"]["detail"]
    monkeypatch.delenv("ANIME_STUDIO_UPSCALER")

    other = shutil.copytree(base / "random-0", base / "random-0.plain-bfloat16-v1")
    add_upscaler(other)
    assert look()["sizes"]["state"] == "missing", "it is offered for what a GPU would load"

    add_upscaler(base / "random-0")
    Manifest.of(base / "random-0").write(base / "random-0")
    assert "sizes" not in look()


def test_an_unfinished_one_is_reported(base):
    (base / f"{PREPARED}.partial").mkdir()

    assert "was interrupted" in look()["prepared"]["detail"]


def test_beside_a_damaged_source_nothing_prepared_is_looked_for(base):
    (base / "random-0" / "model_index.json").unlink()

    found = look()

    assert found["weights"]["state"] == "missing"
    assert "random-0/model_index.json is missing" in found["weights"]["detail"]
    assert "prepared" not in found


@pytest.mark.parametrize(
    ("listed", "packing"),
    [("GPU 0: NVIDIA L4 (UUID: GPU-1)\\n", "plain-bfloat16"), ("", "plain-float32")],
)
def test_it_looks_for_the_packing_of_this_machines_gpu(base, tmp_path, monkeypatch, listed, packing):
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\nprintf "{listed}"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("ANIME_STUDIO_DEVICE", "auto")

    assert f"no random-0.{packing}-v1" in look()["prepared"]["detail"]


def test_it_says_whether_host_memory_holds_the_text_encoder(base, monkeypatch: pytest.MonkeyPatch):
    enough = look()["memory"]
    parameters = sum(
        each.numel() for each in load_file(base / "random-0/text_encoder/model.safetensors").values()
    )
    needed_bytes = text_encoder_bytes(base / "random-0", packing_for("cpu"))
    monkeypatch.setattr(doctor, "usable_memory_bytes", lambda: needed_bytes + doctor.BESIDE_TEXT_BYTES)
    too_little = look()["memory"]

    assert needed_bytes == 4 * parameters
    assert text_encoder_bytes(base / "random-0", packing_for("cuda")) == 2 * parameters
    assert (enough["state"], enough["remedy"]) == ("ok", None)
    assert too_little["state"] == "missing" and "leaves too little" in too_little["detail"]
    assert too_little["remedy"] == "draw with recipe demo"


def test_with_a_gpu_the_remedy_is_to_keep_the_text_encoder_there(base, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ANIME_STUDIO_DEVICE", "cuda")
    monkeypatch.setattr(doctor, "usable_memory_bytes", lambda: 10**9)
    assert "ANIME_STUDIO_TEXT=gpu" in look()["memory"]["remedy"]
    monkeypatch.setenv("ANIME_STUDIO_TEXT", "gpu")
    assert look()["memory"]["state"] == "ok"
