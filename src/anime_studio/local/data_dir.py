"""The folder of a local deployment: where each thing lies, who may use it, and the signing key.

One server and one worker use a folder at a time, each under its own lock (`flock`), which
the kernel lets go when its process dies, however it dies.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import structlog

from anime_studio.core.errors import ConfigurationError
from anime_studio.telemetry import SIGNING_KEY_CREATED

LOOK_AGAIN_S: Final = 0.1
KEY_BYTES: Final = 32

_log = structlog.get_logger(__name__)


class DataDir:
    """Paths, locks and the key under one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs = folder / "jobs.sqlite3"
        self.clips = folder / "clips"
        self.scratch = folder / "scratch"
        self.cache = folder / "cache"
        self._signing_key = folder / "signing.key"

    @contextmanager
    def for_server(self) -> Iterator[None]:
        """Hold the folder as its only server.

        Raises:
            ConfigurationError: Another server holds it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with _opened(self.folder / "server.lock") as descriptor:
            if not _locked(descriptor):
                holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
                raise ConfigurationError(
                    f"another server (process {holder}) already uses {self.folder.resolve()}; stop it, or give "
                    "this one its own folder: ANIME_STUDIO_DATA_DIR=<folder> anime-studio serve --port 0"
                )
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            yield

    @contextmanager
    def for_worker(self) -> Iterator[None]:
        """Hold the folder as its only worker; waits for an earlier one to let go."""
        with _opened(self.folder / "worker.lock") as descriptor:
            while not _locked(descriptor):
                time.sleep(LOOK_AGAIN_S)
            yield

    def signing_key(self) -> str:
        """Return the folder's own key; the first call makes it, readable by its owner alone.

        Raises:
            ConfigurationError: Others can read it, so anyone may have signed with it.
        """
        path = self._signing_key
        if not path.exists():
            _write_secret(path, secrets.token_urlsafe(KEY_BYTES))
            _log.info(SIGNING_KEY_CREATED, file=str(path))
        if stat.S_IMODE(path.stat().st_mode) & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigurationError(
                f"the signing key {path} can be read by others; delete it, so that a new one is made "
                f"(rm {path}), or, if nobody has read it, close it (chmod 600 {path})"
            )
        return path.read_text().strip()


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)  # also lets go of the lock


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_secret(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, text.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    partial.rename(path)  # whole or not there: a crash never leaves half a key
