"""`weights prepare` and what `weights verify` says of it, as a person and as a script would call them."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from anime_studio.checkpoints.manifest import COMPLETE, Manifest
from anime_studio.cli import app
from anime_studio.core.recipes import WAN_50STEP
from support.engine import checkpoint_in, flip
from support.upscaler_package import install_package, remove_package


@pytest.fixture
def run(tiny_checkpoint: Path, tmp_path, monkeypatch):
    checkpoint_in(tmp_path, tiny_checkpoint)
    monkeypatch.setenv("ANIME_STUDIO_MODELS_DIR", str(tmp_path))
    monkeypatch.setenv("ANIME_STUDIO_DEVICE", "cpu")
    return lambda *words: CliRunner().invoke(app, ["weights", *words, "--recipe", "tiny-random"])


def words(text: str) -> str:
    return " ".join(text.split())


def test_prepare_reports_each_model_and_where_the_result_is(run, tmp_path):
    result = run("prepare")

    assert result.exit_code == 0, result.stderr
    for model in ("text_encoder", "transformer", "vae"):
        assert f"{model}: " in result.stderr
    assert str(tmp_path / "tiny-random" / "random-0.plain-float32-v1") in words(result.stdout)


def test_prepare_as_json_is_one_document(run, tmp_path):
    result = run("prepare", "--json")

    document = json.loads(result.stdout)
    prepared = document["prepared"]
    assert result.stderr == ""
    assert (document["recipe"], document["revision"]) == ("tiny-random", "random-0")
    layout = [prepared[key] for key in ("layout_version", "text_weights", "dtype")]
    assert layout == [1, "plain", "float32"]
    there = [path for path in Path(prepared["folder"]).rglob("*") if path.is_file()]
    assert prepared["files"] == len(there) - 1, "all but the manifest"
    assert 0 < prepared["size_bytes"] < sum(path.stat().st_size for path in there)


def test_verify_names_prepare_until_it_is_done(run):
    before = run("verify")
    run("prepare")
    after = run("verify")

    assert before.exit_code == after.exit_code == 0
    assert "anime-studio weights prepare --recipe tiny-random" in words(before.stderr)
    assert "weights prepare" not in after.stderr
    assert "random-0.plain-float32-v1" in after.stdout
    assert json.loads(run("verify", "--json").stdout)["prepared"][0]["text_weights"] == "plain"


def test_verify_names_the_wrong_file_and_the_next_command(run, tmp_path):
    run("prepare")
    flip(tmp_path / "tiny-random" / "random-0.plain-float32-v1" / "vae" / "00001.safetensors")

    result = run("verify")

    assert result.exit_code == 1
    assert "vae/00001.safetensors was altered" in words(result.stderr)
    assert "anime-studio weights prepare --recipe tiny-random" in words(result.stderr)
    assert run("prepare").exit_code == 0
    assert run("verify").exit_code == 0


def test_verify_refuses_what_is_prepared_for_other_settings_only(run, monkeypatch):
    monkeypatch.setenv("ANIME_STUDIO_DEVICE", "cuda")
    assert run("prepare").exit_code == 0
    monkeypatch.setenv("ANIME_STUDIO_DEVICE", "cpu")

    result = run("verify")

    assert result.exit_code == 1
    assert "plain-bfloat16-v1 is not packed as plain-float32, which these settings ask for" in words(
        result.stderr
    )


def test_prepare_without_weights_names_the_command_that_fetches_them(run):
    result = CliRunner().invoke(app, ["weights", "prepare", "--recipe", "fastwan-3step"])

    assert result.exit_code == 1
    assert "anime-studio weights fetch --recipe fastwan-3step" in words(result.stderr)


@pytest.fixture
def wan(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The commands for a recipe of Wan's, whose weights are the tiny ones."""
    folder = tmp_path / "wan-50step" / WAN_50STEP.revision
    shutil.copytree(tiny_checkpoint, folder)
    Manifest.of(folder).write(folder)
    (folder / COMPLETE).touch()
    monkeypatch.setenv("ANIME_STUDIO_MODELS_DIR", str(tmp_path))
    monkeypatch.setenv("ANIME_STUDIO_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("ANIME_STUDIO_DEVICE", "cpu")
    return lambda *words: CliRunner().invoke(app, [*words, "--recipe", "wan-50step"])


def finding(run, name: str) -> dict[str, str]:
    answer = run("doctor", "--json", "--url", "http://127.0.0.1:9")
    return {finding["name"]: finding for finding in json.loads(answer.stdout)}[name]


def test_without_the_upscalers_package_prepare_goes_on_and_names_what_installs_it(wan, monkeypatch, tmp_path):
    remove_package(monkeypatch)

    result = wan("weights", "prepare")

    assert result.exit_code == 0, result.stderr
    assert "without an upscaler" in words(result.stderr)
    absent = finding(wan, "upscale")
    assert absent["state"] == "note" and absent["remedy"] in words(result.stderr)
    assert finding(wan, "prepared")["state"] == "ok"


def test_with_the_package_doctor_asks_to_prepare_again_and_then_all_is_well(wan, monkeypatch, tmp_path):
    remove_package(monkeypatch)
    wan("weights", "prepare")
    monkeypatch.undo()
    for name in ("MODELS_DIR", "DATA_DIR"):
        monkeypatch.setenv(f"ANIME_STUDIO_{name}", str(tmp_path))
    monkeypatch.setenv("ANIME_STUDIO_DEVICE", "cpu")
    models = install_package(tmp_path / "site", monkeypatch)

    lacking = finding(wan, "prepared")
    again = wan("weights", "prepare")

    assert (lacking["state"], lacking["remedy"]) == (
        "note",
        "anime-studio weights prepare --recipe wan-50step",
    )
    assert again.exit_code == 0, again.stderr
    assert "without an upscaler" not in again.stderr
    assert finding(wan, "prepared")["state"] == finding(wan, "upscale")["state"] == "ok"
    flip(next(models.glob("*.bin")))
    assert "is not the file that this program knows" in finding(wan, "upscale")["detail"]
    refused = wan("weights", "prepare")
    assert refused.exit_code == 1 and "install version 2.0.0" in words(refused.stderr)
