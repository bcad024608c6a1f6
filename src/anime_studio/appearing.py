"""A folder that appears whole or not at all, whatever happens to the process or the disk while it is written."""

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
LOCK: Final = ".preparing.lock"


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """Give an empty folder that becomes *target* by one rename when the block ends well; else nothing is left.

    What an earlier, killed process left is removed first. A *target* that is there already is damaged, or it would
    not be made again: it steps aside for a moment in which there is none, and the source serves.

    Raises:
        ConfigurationError: Another process is preparing weights in the same place.
        OSError: The disk is full or fails.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with _alone_in(target.parent):
        partial, replaced = (target.with_name(target.name + suffix) for suffix in (PARTIAL, REPLACED))
        for leftover in (partial, replaced):
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir()
        try:
            yield partial
            _sync(partial)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        if target.exists():
            target.rename(replaced)
        partial.rename(target)
        _sync_folder(target.parent)
        shutil.rmtree(replaced, ignore_errors=True)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"another process is preparing weights in {folder}; wait for it, then run the same command again"
            ) from None
        yield
    finally:
        os.close(descriptor)


def _sync(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            _sync_folder(path)
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
