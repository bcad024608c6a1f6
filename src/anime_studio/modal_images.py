"""The two container images: one that draws, one that serves.

What they install is what the project itself asks for: its dependencies and extras in `pyproject.toml`, held
to `constraints.txt`. Both files are read where the deploy runs. A container imports this module too, with
neither file at hand: there an image is only a name for what was built, so the list is empty, and nothing
that Modal counts (functions, Volumes, Secrets) depends on it.

Source of the order: client 1.6.4, `modal/_image.py`: build steps after `add_local_*` are refused, and a
changed layer rebuilds all that follow it. So packages come first, settings next, our source last.
"""

from __future__ import annotations

import os
import re
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Final

import modal

from anime_studio.core.errors import ConfigurationError
from anime_studio.modal_settings import ModalSettings

PYTHON_VERSION: Final = "3.12"
UV_VERSION: Final = "0.9"
DRAWING_EXTRA: Final = "engine"
GPU_EXTRA: Final = "cuda"
SERVING_EXTRA: Final = "server"
TORCH: Final = "torch==2.13.0"
"""The version this project is tested with; `constraints.txt` leaves it open, since a laptop's build differs.
PyPI's Linux wheel is a CUDA 13.0 build."""

_COMPILING: Final = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}
"""Compiler processes left behind can keep a memory snapshot from being made (guide, "Memory Snapshots")."""

_PROJECT: Final = Path(__file__).parents[2]
_CONSTRAINTS: Final = _PROJECT / "constraints.txt"
_CONSTRAINTS_INSIDE: Final = "/constraints.txt"


def gpu_image(settings: ModalSettings) -> modal.Image:
    """Return the image that draws: torch, diffusers, PyAV, ffmpeg, and the demo checkpoint beside our source."""
    # Triton and torch.compile build small C and C++ files when they first run.
    on_gpu = [] if settings.gpu is None else requirements(GPU_EXTRA)
    packages = [*requirements(DRAWING_EXTRA), *on_gpu, TORCH]
    image = _with_requirements(_base().apt_install("ffmpeg", "g++"), packages)
    return image.env({**settings.as_environment(), **_COMPILING}).add_local_python_source(
        "common", "anime_studio", ignore=["**/__pycache__/**"]
    )


def web_image(settings: ModalSettings) -> modal.Image:
    """Return the image that serves: no torch, no weights."""
    image = _with_requirements(_base(), requirements(SERVING_EXTRA))
    return image.env(settings.as_environment()).add_local_python_source(
        "common", "anime_studio", ignore=["**/__pycache__/**", "**/*.safetensors"]
    )


def requirements(extra: str) -> list[str]:
    """Return what the project asks for with *extra*; nothing in a container, where all is installed already.

    Raises:
        ConfigurationError: Neither `pyproject.toml` nor the installed package is here to be read.
    """
    if os.environ.get(
        "MODAL_IS_REMOTE"
    ):  # guide, "Environment variables"; also in a container's child processes
        return []
    pyproject = _PROJECT / "pyproject.toml"
    if pyproject.exists():  # before the metadata: an editable install's is as old as the install
        project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
        return [*project["dependencies"], *project["optional-dependencies"][extra]]
    try:
        declared = metadata.requires("anime-studio") or []
    except metadata.PackageNotFoundError:
        raise ConfigurationError(
            "the images' requirements are not known here; deploy from a clone of the project, or install it: "
            "pip install -e '.[modal]'"
        ) from None
    wanted = ("", f"extra=={extra}")
    parts = [line.partition(";") for line in declared]
    return [name.strip() for name, _, marker in parts if re.sub(r"[\s'\"]", "", marker) in wanted]


def _base() -> modal.Image:
    return modal.Image.debian_slim(python_version=PYTHON_VERSION)


def _with_requirements(image: modal.Image, packages: list[str]) -> modal.Image:
    if not _CONSTRAINTS.exists():  # a container, or a project installed without its repository
        return image.uv_pip_install(packages, uv_version=UV_VERSION)
    return image.add_local_file(_CONSTRAINTS, _CONSTRAINTS_INSIDE, copy=True).uv_pip_install(
        packages, extra_options=f"--constraint {_CONSTRAINTS_INSIDE}", uv_version=UV_VERSION
    )
