"""Finished clips in a folder: each is whole and checked, or it is not there.

A clip is a sidecar `<clip_id>.json` and two files whose names carry their own hash.
Each file is written under a temporary name, synced and renamed; the sidecar comes last.
So its rename makes the whole clip visible, a second publish replaces the first in one step,
and a file that no sidecar names is an orphan of a crash.

Source of the order: `man 2 fsync`: a rename is durable once its directory is synced too.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import structlog
from pydantic import ValidationError

from anime_studio.checkpoints.atomic_folder import fsync
from anime_studio.core.errors import DiskFullError, StorageError
from anime_studio.core.ids import is_clip_id
from anime_studio.core.jobs import Asset, ClipFile, RenderedClip, StoredClip
from anime_studio.telemetry import LogEvent

CHUNK_BYTES: Final = 1024 * 1024
PARTIAL: Final = ".partial"
DAMAGED: Final = ".damaged"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Retention:
    """How long clips stay."""

    max_age: timedelta
    max_bytes: int
    min_age: timedelta
    """Links live this long: a younger clip is never removed for room."""


class FolderClips:
    """A `ClipReader` and a `ClipWriter` on one folder; one process writes, any number read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._verified: set[tuple[str, int, int]] = set()

    async def open(self, clip: StoredClip, asset: Asset) -> ClipFile | None:
        """See `ClipReader.open`: the size is checked each time, the hash once per version of the file."""
        return await asyncio.to_thread(self._open, clip, asset)

    async def find(self, clip_id: str) -> StoredClip | None:
        """See `ClipReader.find`."""
        return await asyncio.to_thread(self._find, clip_id)

    async def remove(self, clip_id: str) -> None:
        """See `ClipReader.remove`."""

        def remove() -> None:
            with _storage_errors(self._folder):
                if clip := self._find(clip_id):
                    self._remove(clip)

        await asyncio.to_thread(remove)

    def publish(self, clip_id: str, rendered: RenderedClip) -> StoredClip:
        """See `ClipWriter.publish`."""
        with _storage_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            before = self._find(clip_id)
            current = set() if before is None else set(self._files(before))
            try:
                clip = self._write(clip_id, rendered)
                current = set(self._files(clip))
            finally:  # removes the replaced clip's files; or, on a full disk, what was written of this one
                self._remove_files(set(self._folder.glob(f"{clip_id}.*.*")) - current)
        return clip

    def remove_orphans(self) -> Sequence[str]:
        """Remove partial files and files that no sidecar names. For the writer, when it starts."""
        with _storage_errors(self._folder):
            if not self._folder.is_dir():
                return []
            named = {path for clip, _ in self._clips() for path in self._files(clip)}
            suffixes = {asset.suffix for asset in Asset}
            orphans = [
                path
                for path in self._folder.iterdir()
                if path.suffix == PARTIAL or (path.suffix in suffixes and path not in named)
            ]
            self._remove_files(orphans)
        names = sorted(path.name for path in orphans)
        if names:
            _log.info(LogEvent.ORPHANS_REMOVED, files=names)
        return names

    def sweep(self, now: datetime, retention: Retention) -> Sequence[str]:
        """Remove clips by age, then the oldest until the rest fit; return their ids."""
        with _storage_errors(self._folder):
            if not self._folder.is_dir():
                return []
            self._remove_damaged(now, retention.max_age)
            return self._sweep(now, retention)

    def _sweep(self, now: datetime, retention: Retention) -> Sequence[str]:
        by_age = sorted(self._clips(), key=lambda found: found[1])
        total_bytes = sum(clip.size_bytes + clip.poster_size_bytes for clip, _ in by_age)
        removed: list[str] = []
        for clip, published_at in by_age:
            age = now - published_at
            for_room = total_bytes > retention.max_bytes and age > retention.min_age
            if age > retention.max_age or for_room:
                self._remove(clip)
                removed.append(clip.clip_id)
                total_bytes -= clip.size_bytes + clip.poster_size_bytes
        if removed:
            _log.info(LogEvent.CLIPS_SWEPT, clip_ids=removed, left_bytes=total_bytes)
        return removed

    def _open(self, clip: StoredClip, asset: Asset) -> ClipFile | None:
        path, (size_bytes, sha256) = self._file(clip, asset), clip.size_and_hash(asset)
        with _storage_errors(path):
            try:
                status = path.stat()
            except FileNotFoundError:
                return None
            if status.st_size != size_bytes:
                self._set_aside(path, f"{status.st_size} bytes instead of {size_bytes}")
                return None
            state = (path.name, status.st_mtime_ns, status.st_size)
            if state not in self._verified:
                if (found := _hash_of(path)) != sha256:
                    self._set_aside(path, f"sha256 {found} instead of {sha256}")
                    return None
                self._verified.add(state)
        return ClipFile(path, size_bytes, sha256, asset.content_type)

    def _find(self, clip_id: str) -> StoredClip | None:
        if not is_clip_id(clip_id):
            return None
        path = self._sidecar(clip_id)
        with _storage_errors(path):
            try:
                return StoredClip.model_validate_json(path.read_bytes())
            except FileNotFoundError:
                return None
            except ValidationError:
                self._set_aside(path, "not a clip's sidecar")
                return None

    def _clips(self) -> Iterator[tuple[StoredClip, datetime]]:
        for path in self._folder.glob("c_*.json"):
            published_at = datetime.fromtimestamp(path.stat().st_mtime, tz=UTC)
            if clip := self._find(path.stem):
                yield clip, published_at

    def _write(self, clip_id: str, rendered: RenderedClip) -> StoredClip:
        sources = {Asset.VIDEO: rendered.video, Asset.POSTER: rendered.poster}
        partials = {asset: self._folder / f"{clip_id}{asset.suffix}{PARTIAL}" for asset in Asset}
        video, poster = (_copy(sources[asset], partials[asset]) for asset in Asset)
        clip = StoredClip.of(clip_id, rendered, video=video, poster=poster)
        for asset, partial in partials.items():
            partial.replace(self._file(clip, asset))
        fsync(self._folder)
        self._write_sidecar(clip)
        return clip

    def _write_sidecar(self, clip: StoredClip) -> None:
        sidecar = self._sidecar(clip.clip_id)
        partial = sidecar.with_name(sidecar.name + PARTIAL)
        with _storage_errors(partial), partial.open("w") as writer:
            writer.write(clip.model_dump_json())
            writer.flush()
            os.fsync(writer.fileno())
        partial.replace(sidecar)
        fsync(self._folder)

    def _remove(self, clip: StoredClip) -> None:
        self._sidecar(clip.clip_id).unlink(missing_ok=True)  # first: from now on the clip is gone
        self._remove_files(self._files(clip))

    def _remove_files(self, paths: Iterable[Path]) -> None:
        for path in paths:
            path.unlink(missing_ok=True)

    def _remove_damaged(self, now: datetime, max_age: timedelta) -> None:
        for path in self._folder.glob(f"*{DAMAGED}"):
            if now - datetime.fromtimestamp(path.stat().st_mtime, tz=UTC) > max_age:
                path.unlink(missing_ok=True)

    def _set_aside(self, path: Path, reason: str) -> None:
        aside = path.with_name(path.name + DAMAGED)
        with suppress(FileNotFoundError):  # another reader was faster
            path.replace(aside)
        _log.error(LogEvent.CLIP_DAMAGED, file=str(path), reason=reason, moved_to=aside.name)

    def _sidecar(self, clip_id: str) -> Path:
        return self._folder / f"{clip_id}.json"

    def _files(self, clip: StoredClip) -> tuple[Path, Path]:
        return self._file(clip, Asset.VIDEO), self._file(clip, Asset.POSTER)

    def _file(self, clip: StoredClip, asset: Asset) -> Path:
        return self._folder / clip.file_name(asset)


def _copy(source: Path, target: Path) -> tuple[int, str]:
    """Copy a file and sync it; return size in bytes and SHA-256."""
    digest, size_bytes = hashlib.sha256(), 0
    with _storage_errors(target), source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(CHUNK_BYTES):
            digest.update(chunk)
            size_bytes += writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    return size_bytes, digest.hexdigest()


def _hash_of(path: Path) -> str:
    with path.open("rb") as reader:
        return hashlib.file_digest(reader, "sha256").hexdigest()


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = error.filename or path
        if error.errno in DiskFullError.errnos:
            raise DiskFullError(f"no room to write {where}; free some space and try again") from error
        raise StorageError(
            f"{where} cannot be used: {error.strerror}; check the disk and the folder's owner"
        ) from error
