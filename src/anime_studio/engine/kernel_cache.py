"""Compiled kernels, kept between processes: what inductor and Triton wrote into their folders, in one file.

A process that starts with empty folders compiles for 24 s before its first clip (an H200 with 16 cores, docs/performance.md).
So the first start keeps what it compiled, and each later one unpacks that before it warms up. A file is for one card, one
set of versions, one recipe and decoder, and one state of our engine's code. Inductor and Triton name what they wrote by
its content and look it up by that, so a file that is older than it should be costs time and never a wrong result.

A file is JSON on one line, what it is for and the hash of the rest, and then a gzipped tar. It appears whole or not at
all. One that is damaged, or is for something else, is as good as absent.

Source of the variables: torch 2.11, `torch/_inductor/runtime/cache_dir_utils.py`, and Triton 3.6, `triton/knobs.py`; both
read them whenever they compile.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import shutil
import tarfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import structlog
import torch

from anime_studio.core.decoders import Decoder
from anime_studio.core.recipes import Recipe
from anime_studio.telemetry import LogEvent

FOLDERS: Final = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}
"""Variable, and the folder below the cache's own."""
MOST_BYTES: Final = 512 * 1024**2
"""Of a file. Kernels of one recipe are a small part of that; more would be read for longer than it saves."""
_SUFFIX: Final = ".kernels"
_RESTORED: Final = ".restored"
"""Marks a folder to which a file was added."""
_ENGINE: Final = Path(__file__).parent

_log = structlog.get_logger(__name__)


def environment(local: Path) -> dict[str, str]:
    """Return the variables by which inductor and Triton write below *local*."""
    return {variable: str(local / folder) for variable, folder in FOLDERS.items()}


def made_for(recipe: Recipe, decoder: Decoder, device: torch.device) -> dict[str, str]:
    """Return what decides which kernels a start of this process compiles."""
    return {
        "card": _card(device),
        "torch": f"{torch.__version__}, CUDA {torch.version.cuda}",
        "triton": _version("triton"),
        "python": platform.python_version(),
        "recipe": recipe.name,
        "decoder": str(decoder),
        "code": code_hash(),
    }


def code_hash(folder: Path = _ENGINE) -> str:
    """Return a hash of the Python files below *folder*, by default the engine's."""
    files = sorted((str(path.relative_to(folder)), path.read_bytes()) for path in folder.rglob("*.py"))
    return hashlib.sha256(repr(files).encode()).hexdigest()


class KernelCache:
    """One file of kernels, and the folder of this process in which they are used.

    Args:
        folder: Where files are kept; it need not be there.
        local: As in `environment`.
        made_for: From the function of that name.
    """

    def __init__(self, folder: Path, local: Path, made_for: Mapping[str, str]) -> None:
        self._local, self._restored = local, local / _RESTORED
        self._made_for = dict(made_for)
        named = hashlib.sha256(json.dumps(self._made_for, sort_keys=True).encode()).hexdigest()
        self.file = folder / f"{named[:32]}{_SUFFIX}"

    @property
    def is_stored(self) -> bool:
        """Whether there is a file."""
        return self.file.exists()

    def restore(self) -> bool:
        """Add what is kept to this process's folder, once; return whether it is there.

        The folder may hold kernels already: a look at what the card can do compiles one. Each keeps its place.
        """
        if self._restored.exists():
            return True
        partial = self._local.with_name(f"{self._local.name}.{os.getpid()}")
        try:
            packed = self._packed()
            self._local.parent.mkdir(parents=True, exist_ok=True)
            with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as archive:
                archive.extractall(partial, filter="data")
            for file in (path for path in partial.rglob("*") if path.is_file()):
                place = self._local / file.relative_to(partial)
                if not place.exists():
                    place.parent.mkdir(parents=True, exist_ok=True)
                    file.rename(place)
            self._restored.touch()
        except FileNotFoundError:
            return False
        except (OSError, ValueError, tarfile.TarError, EOFError) as error:
            _log.warning(
                LogEvent.KERNELS_REFUSED, file=self.file.name, detail=f"{type(error).__name__}: {error}"
            )
            return False
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return True

    def pack(self) -> bytes | None:
        """Return the content of a file with what this process has compiled; None if there is nothing, or far too much."""
        if not any(path.is_file() and path != self._restored for path in self._local.rglob("*")):
            return None
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
            archive.add(self._local, arcname=".", filter=_without_mark)
        content = packed.getvalue()
        if len(content) > MOST_BYTES:
            return None
        return json.dumps(self._heading(content)).encode() + b"\n" + content

    def _packed(self) -> bytes:
        """Return the tar of the file.

        Raises:
            OSError: It is not there, or cannot be read.
            ValueError: It is damaged, or for something else.
        """
        heading, _, packed = self.file.read_bytes().partition(b"\n")
        if json.loads(heading) != self._heading(packed):
            raise ValueError("the file is damaged, or it was made for something else")
        return packed

    def _heading(self, packed: bytes) -> dict[str, object]:
        return {"made_for": self._made_for, "sha256": hashlib.sha256(packed).hexdigest()}


def _without_mark(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if entry.name.endswith(_RESTORED) else entry


def _card(device: torch.device) -> str:
    if device.type != "cuda":
        return f"{device.type}, {platform.machine()}"
    major, minor = torch.cuda.get_device_capability(device)
    return f"{torch.cuda.get_device_name(device)}, {major}.{minor}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a CPU build of torch has none
        return "none"
