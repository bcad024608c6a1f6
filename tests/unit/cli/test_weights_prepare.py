"""`weights prepare` and what `weights verify` says of it, as a person and as a script would call them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from anime_studio.cli import app
from support.engine import checkpoint_in, flip


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
