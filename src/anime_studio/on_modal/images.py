"""The container images: one for the GPU container, one for the text container, one for the web container.

All install the project's own dependencies and extras from `pyproject.toml`, in the versions of `constraints.txt`.
`modal deploy` reads both files on the deploying machine. Containers import this module again, without these files.
Modal does not build an image there, so `requirements` returns an empty list; a container's functions, Volumes and
Secrets do not depend on that list.

Order of the layers: client 1.6.4, `modal/_image.py`, refuses build steps after `add_local_*`, and a changed layer
rebuilds every layer after it. So packages come first, settings next, our source last.
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
from anime_studio.on_modal.settings import ModalSettings

PYTHON_VERSION: Final = "3.12"
UV_VERSION: Final = "0.9"
ENGINE_EXTRA: Final = "engine"
SERVER_EXTRA: Final = "server"
TORCH: Final = "torch==2.13.0"
"""The version that this project is tested with. `constraints.txt` leaves torch open, because a laptop may want
another build. PyPI's Linux wheel is a CUDA 13.0 build."""
TEXT_TORCH_BACKEND: Final = "cpu"
"""uv takes torch's CPU build with it, wherever that is published (uv's guide, "Using uv with PyTorch")."""

_COMPILING: Final = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}
"""With more threads, torch leaves compiler processes running, and these can prevent a memory snapshot (guide, "Memory
Snapshots")."""

_PROJECT: Final = Path(__file__).parents[3]
_CONSTRAINTS: Final = _PROJECT / "constraints.txt"
_CONSTRAINTS_INSIDE: Final = "/constraints.txt"


def gpu_image(settings: ModalSettings) -> modal.Image:
    """Return the GPU container's image: torch, diffusers, PyAV, ffmpeg, our source and the demo checkpoint in it."""
    packages = [*requirements(ENGINE_EXTRA), TORCH]
    # g++: Triton and torch.compile build small C and C++ files when they first run.
    image = _with_requirements(_base().apt_install("ffmpeg", "g++"), packages)
    return image.env({**settings.as_environment(), **_COMPILING}).add_local_python_source(
        "common", "anime_studio", ignore=["**/__pycache__/**"]
    )


def text_image(settings: ModalSettings) -> modal.Image:
    """Return the text container's image: torch without CUDA, which is a fifth of the GPU container's bytes."""
    image = _with_requirements(
        _base(), [*requirements(ENGINE_EXTRA), TORCH], options=f"--torch-backend {TEXT_TORCH_BACKEND}"
    )
    return image.env(settings.as_environment()).add_local_python_source(
        "common", "anime_studio", ignore=["**/__pycache__/**"]
    )


def web_image(settings: ModalSettings) -> modal.Image:
    """Return the web container's image: no torch, no weights."""
    image = _with_requirements(_base(), requirements(SERVER_EXTRA))
    return image.env(settings.as_environment()).add_local_python_source(
        "common", "anime_studio", ignore=["**/__pycache__/**", "**/*.safetensors"]
    )


def requirements(extra: str, *, project: Path = _PROJECT, package: str = "anime-studio") -> list[str]:
    """Return what the project requires with *extra*; an empty list in a container, whose image is built already.

    Args:
        extra: A name among the project's extras.
        project: The folder of `pyproject.toml`.
        package: The installed package that is read when there is no such file.

    Raises:
        ConfigurationError: Neither of the two is there.
    """
    if os.environ.get("MODAL_IS_REMOTE"):  # guide, "Environment variables"; child processes inherit it
        return []
    pyproject = project / "pyproject.toml"
    if pyproject.exists():  # before the installed metadata, which an editable install does not renew
        table = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
        return [*table["dependencies"], *table["optional-dependencies"][extra]]
    try:
        declared = metadata.requires(package) or []
    except metadata.PackageNotFoundError:
        raise ConfigurationError(
            f"the images' requirements cannot be read: there is no {pyproject} and no installed package {package}; "
            "deploy from a clone of the project, or install it: pip install -e '.[modal]'"
        ) from None
    wanted = ("", f"extra=={extra}")
    parts = [line.partition(";") for line in declared]
    return [name.strip() for name, _, marker in parts if re.sub(r"[\s'\"]", "", marker) in wanted]


def _base() -> modal.Image:
    return modal.Image.debian_slim(python_version=PYTHON_VERSION)


def _with_requirements(image: modal.Image, packages: list[str], *, options: str = "") -> modal.Image:
    if not _CONSTRAINTS.exists():  # a container, or a project installed without its repository
        return image.uv_pip_install(packages, extra_options=options, uv_version=UV_VERSION)
    held = f"--constraint {_CONSTRAINTS_INSIDE} {options}".rstrip()
    return image.add_local_file(_CONSTRAINTS, _CONSTRAINTS_INSIDE, copy=True).uv_pip_install(
        packages, extra_options=held, uv_version=UV_VERSION
    )
