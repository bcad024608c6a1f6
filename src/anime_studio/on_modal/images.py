"""The container images: one with CUDA, one with torch for a CPU, one without torch for the web container.

All install the project's own dependencies and extras from `pyproject.toml`. The image with CUDA has the versions of
`constraints-gpu.txt`, which names every package in it; the others have those of `constraints.txt`. `modal deploy` reads
these files on the deploying machine. Containers import this module again, without these files. Modal does not build an
image there, so `requirements` returns an empty list; a container's functions, Volumes and Secrets do not depend on that
list.

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

from anime_studio.checkpoints.published_upscaler import PACKAGE
from anime_studio.core.errors import ConfigurationError
from anime_studio.on_modal.settings import KERNELS_INSIDE, ModalSettings

PYTHON_VERSION: Final = "3.12"
UV_VERSION: Final = "0.9"
ENGINE_EXTRA: Final = "engine"
SERVER_EXTRA: Final = "server"
GPU_TORCH: Final = "torch==2.11.0"
"""The version of every GPU benchmark (`benchmarks/results`). PyPI's Linux wheel is a CUDA 13.0 build."""
CPU_TORCH: Final = "torch==2.13.0"
"""The version that the tests run on. `constraints.txt` leaves torch open, because a laptop may want another build."""
UPSCALER: Final = f"{PACKAGE}==2.0.0"
"""Installed without its dependencies: two files of it are read, no code, and OpenCV would be 0.2 GB more."""
_CPU_BUILD: Final = "--torch-backend cpu"
"""uv takes torch's CPU build with it, wherever that is published (uv's guide, "Using uv with PyTorch")."""

_COMPILING: Final = {
    # With more threads, torch leaves compiler processes running, and these can prevent a memory snapshot (guide, "Memory
    # Snapshots").
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
    # As `engine.kernel_cache.environment`, which needs torch: `on_modal.kernels` keeps what is written there.
    "TORCHINDUCTOR_CACHE_DIR": str(KERNELS_INSIDE / "inductor"),
    "TRITON_CACHE_DIR": str(KERNELS_INSIDE / "triton"),
}

_PROJECT: Final = Path(__file__).parents[3]
_CONSTRAINTS: Final = "constraints.txt"
_GPU_CONSTRAINTS: Final = "constraints-gpu.txt"


def generator_image(settings: ModalSettings) -> modal.Image:
    """Return the image of the containers that render: with CUDA, or without it where they have no GPU."""
    return gpu_image(settings) if settings.uses_gpu else cpu_image(settings)


def generator_constraints(settings: ModalSettings) -> Path:
    """Return the pinned versions of `generator_image`; the file is in a clone of the project only."""
    return _PROJECT / (_GPU_CONSTRAINTS if settings.uses_gpu else _CONSTRAINTS)


def gpu_image(settings: ModalSettings) -> modal.Image:
    """Return the image with CUDA: torch, diffusers, PyAV, ffmpeg, the upscaler's weights, our source and the demo's."""
    packages = [*requirements(ENGINE_EXTRA), GPU_TORCH]
    # g++: Triton and torch.compile build small C and C++ files when they first run.
    image = _with_requirements(_base().apt_install("ffmpeg", "g++"), packages, constraints=_GPU_CONSTRAINTS)
    image = image.uv_pip_install([UPSCALER], extra_options="--no-deps", uv_version=UV_VERSION)
    return _with_source(image.env({**settings.as_environment(), **_COMPILING}))


def cpu_image(settings: ModalSettings) -> modal.Image:
    """Return the image with torch's CPU build, a fifth of the other's bytes: for text, and for rendering without a GPU."""
    packages = [*requirements(ENGINE_EXTRA), CPU_TORCH]
    image = _with_requirements(_base(), packages, constraints=_CONSTRAINTS, options=_CPU_BUILD)
    return _with_source(image.env(settings.as_environment()))


def web_image(settings: ModalSettings) -> modal.Image:
    """Return the web container's image: no torch, no weights."""
    image = _with_requirements(_base(), requirements(SERVER_EXTRA), constraints=_CONSTRAINTS)
    return _with_source(image.env(settings.as_environment()), without=("**/*.safetensors",))


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


def _with_source(image: modal.Image, *, without: tuple[str, ...] = ()) -> modal.Image:
    return image.add_local_python_source("common", "anime_studio", ignore=["**/__pycache__/**", *without])


def _with_requirements(
    image: modal.Image, packages: list[str], *, constraints: str, options: str = ""
) -> modal.Image:
    if not (_PROJECT / constraints).exists():  # a container, or a project installed without its repository
        return image.uv_pip_install(packages, extra_options=options, uv_version=UV_VERSION)
    inside = f"/{constraints}"
    held = f"--constraint {inside} {options}".rstrip()
    return image.add_local_file(_PROJECT / constraints, inside, copy=True).uv_pip_install(
        packages, extra_options=held, uv_version=UV_VERSION
    )
