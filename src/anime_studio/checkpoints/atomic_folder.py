"""A folder that appears complete or not at all, whatever happens to the process or the disk meanwhile."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from anime_studio.core.errors import ConfigurationError

PARTIAL: Final = ".partial"
REPLACED: Final = ".replaced"
LOCK: Final = ".writing.lock"


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield an empty `<target>.partial`; on success fsync it and rename it to *target*, on error delete it.

    An existing *target* is renamed to `<target>.replaced` first and deleted last. Between the two renames there is no
    *target*: readers then load the source checkpoint. What a killed process left is deleted at the next call.

    Raises:
        ConfigurationError: Another process is writing a folder in the same place.
        OSError: The disk is full or fails.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(target.parent):
        partial, replaced = (target.with_name(target.name + suffix) for suffix in (PARTIAL, REPLACED))
        for leftover in (partial, replaced):
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir()
        try:
            yield partial
            for path in (*partial.rglob("*"), partial):
                fsync(path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        if target.exists():
            target.rename(replaced)
        partial.rename(target)
        fsync(target.parent)
        shutil.rmtree(replaced, ignore_errors=True)


def fsync(path: Path) -> None:
    """Make a file's bytes, or the renames in a folder, durable (`man 2 fsync`)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold *folder* for one process that fetches or prepares weights in it.

    Raises:
        ConfigurationError: Another process holds it.
    """
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"another process is fetching or preparing weights in {folder}; wait for it, then run the same command again"
            ) from None
        yield
    finally:
        os.close(descriptor)
