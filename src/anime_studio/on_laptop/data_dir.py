"""The folder of a local deployment: its paths, its two locks and its signing key.

One server and one worker use a folder at a time, each under its own lock (`flock`). The kernel
releases a lock when its process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import signal
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import structlog

from anime_studio.core.errors import ConfigurationError
from anime_studio.telemetry import LogEvent

RETRY_LOCK_S: Final = 0.1
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
        self._worker_lock = folder / "worker.lock"
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
                holder = _process_id(descriptor) or "unknown"
                raise ConfigurationError(
                    f"another server (process {holder}) already uses {self.folder.resolve()}; stop it, or give "
                    "this one its own folder: ANIME_STUDIO_DATA_DIR=<folder> anime-studio serve --port 0"
                )
            _write_process_id(descriptor)
            self._close_to_others()
            yield

    @contextmanager
    def for_worker(self) -> Iterator[None]:
        """Hold the folder as its only worker; waits until an earlier one has ended."""
        with _opened(self._worker_lock) as descriptor:
            while not _locked(descriptor):
                time.sleep(RETRY_LOCK_S)
            _write_process_id(descriptor)
            yield

    def end_stale_worker(self, after_s: float) -> int | None:
        """Kill the worker of an earlier server if it still holds the folder after *after_s*.

        A worker that lost its server stops at its next report; one that hangs never does. A process is killed
        only when it is proven to be that worker: it has the lock's file open, which `/proc` shows.

        Returns:
            The id of the process that was killed.
        """
        give_up_at = time.monotonic() + after_s
        with _opened(self._worker_lock) as descriptor:
            while not _locked(descriptor):
                if time.monotonic() < give_up_at:
                    time.sleep(RETRY_LOCK_S)
                    continue
                process_id = _process_id(descriptor)
                if process_id is None or not _has_open(process_id, self._worker_lock):
                    return None
                with suppress(ProcessLookupError):
                    os.kill(process_id, signal.SIGKILL)
                return process_id
        return None

    def _close_to_others(self) -> None:
        """Take from other users what an earlier version left open to them."""
        for path in [*self.folder.glob("jobs.sqlite3*"), self.clips]:
            with suppress(FileNotFoundError):
                path.chmod(stat.S_IMODE(path.stat().st_mode) & ~(stat.S_IRWXG | stat.S_IRWXO))

    def signing_key(self) -> str:
        """Return the folder's own key; the first call makes it, readable by its owner alone.

        Raises:
            ConfigurationError: Others can read it, so anyone may have signed with it.
        """
        path = self._signing_key
        if not path.exists():
            _write_secret(path, secrets.token_urlsafe(KEY_BYTES))
            _log.info(LogEvent.SIGNING_KEY_CREATED, file=str(path))
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
        os.close(descriptor)  # also releases the lock


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_process_id(descriptor: int) -> None:
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)


def _process_id(descriptor: int) -> int | None:
    text = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
    return int(text) if text.isascii() and text.isdigit() and int(text) > 1 else None


def _has_open(process_id: int, path: Path) -> bool:
    """Whether the process has the file open; False where `/proc` does not say, as on macOS."""
    wanted = path.stat()
    with suppress(OSError):
        for opened in Path(f"/proc/{process_id}/fd").iterdir():
            with suppress(OSError):
                if os.path.samestat(opened.stat(), wanted):
                    return True
    return False


def _write_secret(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, text.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    partial.rename(path)  # a crash never leaves half a key
