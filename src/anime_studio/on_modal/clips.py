"""Finished clips on the Volume `anime-outputs`: written through a mount, read without one.

The layout is that of `on_laptop.clips`: a sidecar `<clip_id>.json`, written last, names the video and the poster by
their hashes. The GPU container writes the files, then commits the Volume: before the commit, no other container sees a
byte. Web containers do not mount the Volume, because Modal refuses to reload a mount while a file on it is open (guide,
"Volumes"). They fetch whole files through the client, check them, and serve them from a local folder of bounded size.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import modal
import structlog
from pydantic import ValidationError

from anime_studio.core.errors import DiskFullError, StorageError
from anime_studio.core.ids import is_clip_id
from anime_studio.core.jobs import Asset, ClipFile, RenderedClip, StoredClip
from anime_studio.on_modal.errors import client_errors
from anime_studio.telemetry import LogEvent

PARTIAL: Final = ".partial"
TRUST_SIDECAR_S: Final = 10.0
"""How long a sidecar is used without reading it again, since a player asks for many ranges of one clip. A clip that
was removed may be served this much longer."""
REMAINS_AFTER: Final = timedelta(hours=1)
"""The age at which a file that no sidecar names counts as the remains of a crash."""

_log = structlog.get_logger(__name__)


class MountedClips:
    """A `ClipWriter` on the mounted Volume."""

    def __init__(self, folder: Path, commit: Callable[[], None]) -> None:
        self._folder = folder
        self._commit = commit

    def publish(self, clip_id: str, rendered: RenderedClip) -> StoredClip:
        """See `ClipWriter.publish`. The commit makes the clip durable and visible; a sync of the mount would not."""
        with _storage_errors(f"clip {clip_id}"):
            clip = StoredClip.of(
                clip_id,
                rendered,
                video=_size_and_hash(rendered.video),
                poster=_size_and_hash(rendered.poster),
            )
            self._copy_in(rendered.video, clip.file_name(Asset.VIDEO))
            self._copy_in(rendered.poster, clip.file_name(Asset.POSTER))
            partial = self._folder / f"{clip_id}.json{PARTIAL}"
            partial.write_text(clip.model_dump_json())
            partial.replace(self._folder / f"{clip_id}.json")
            self._commit()
        return clip

    def _copy_in(self, source: Path, name: str) -> None:
        partial = self._folder / f"{name}{PARTIAL}"
        shutil.copyfile(source, partial)
        partial.replace(self._folder / name)


class VolumeClips:
    """A `ClipReader` over the client's calls, with a folder of local copies."""

    def __init__(self, volume: modal.Volume, cache: Path, *, max_bytes: int) -> None:
        self._volume = volume
        self._cache = cache
        self._max_bytes = max_bytes
        self._sidecars: dict[str, tuple[float, StoredClip]] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def find(self, clip_id: str) -> StoredClip | None:
        """See `ClipReader.find`."""
        if not is_clip_id(clip_id):
            return None
        now = asyncio.get_running_loop().time()
        read_at, clip = self._sidecars.get(clip_id, (float("-inf"), None))
        if clip is not None and now - read_at < TRUST_SIDECAR_S:
            return clip
        self._sidecars = {
            key: known for key, known in self._sidecars.items() if now - known[0] < TRUST_SIDECAR_S
        }
        try:
            text = b"".join([chunk async for chunk in self._read(f"{clip_id}.json")])
            clip = StoredClip.model_validate_json(text)
        except FileNotFoundError:
            return None
        except ValidationError:
            _log.error(LogEvent.CLIP_DAMAGED, file=f"{clip_id}.json", reason="not a clip's sidecar")
            return None
        self._sidecars[clip_id] = now, clip
        return clip

    async def open(self, clip: StoredClip, asset: Asset) -> ClipFile | None:
        """See `ClipReader.open`: a file is fetched once, checked by size and hash, then served from the cache."""
        size_bytes, sha256 = clip.size_and_hash(asset)
        name = clip.file_name(asset)
        path = self._cache / name
        async with self._locked(name):
            if not path.exists() and not await self._fetch(name, path, size_bytes, sha256):
                return None
        path.touch()
        return ClipFile(path, size_bytes, sha256, asset.content_type)

    async def remove(self, clip_id: str) -> None:
        """See `ClipReader.remove`."""
        self._sidecars.pop(clip_id, None)
        clip = await self.find(clip_id)
        if clip is None:
            return
        self._sidecars.pop(clip_id, None)
        for name in [f"{clip_id}.json", *map(clip.file_name, Asset)]:
            await remove_file(self._volume, name)
            (self._cache / name).unlink(missing_ok=True)

    async def _fetch(self, name: str, path: Path, size_bytes: int, sha256: str) -> bool:
        self._cache.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(name + PARTIAL)
        digest, received = hashlib.sha256(), 0
        try:
            with _storage_errors(f"file {name}"), partial.open("wb") as writer:
                async for chunk in self._read(name):
                    digest.update(chunk)
                    received += writer.write(chunk)
            if (received, digest.hexdigest()) != (size_bytes, sha256):
                _log.error(
                    LogEvent.CLIP_DAMAGED, file=name, reason=f"{received} bytes, sha256 {digest.hexdigest()}"
                )
                return False
            partial.replace(path)
        except FileNotFoundError:
            return False
        finally:
            partial.unlink(missing_ok=True)
        self._make_room(newest=path)
        return True

    def _make_room(self, newest: Path) -> None:
        files = sorted(
            (path for path in self._cache.iterdir() if path != newest), key=lambda path: path.stat().st_mtime
        )
        total_bytes = newest.stat().st_size + sum(path.stat().st_size for path in files)
        for path in files:
            if total_bytes <= self._max_bytes:
                return
            total_bytes -= path.stat().st_size
            path.unlink(missing_ok=True)  # a response that has the file open goes on

    async def _read(self, name: str) -> AsyncIterator[bytes]:
        with _storage_errors(f"file {name}"):
            async for chunk in self._volume.read_file.aio(name):
                yield chunk

    @asynccontextmanager
    async def _locked(self, name: str) -> AsyncIterator[None]:
        lock = self._locks[name]
        async with lock:
            yield
        if not lock.locked():
            self._locks.pop(name, None)


async def sweep_clips(volume: modal.Volume, now: datetime, max_age: timedelta) -> Sequence[str]:
    """Remove clips older than *max_age*, each sidecar first, and files that no sidecar names; return the clips' ids.

    Raises:
        StorageError: The Volume cannot be listed or changed.
    """
    with _storage_errors("the Volume's files"):
        entries = [entry async for entry in volume.iterdir.aio("/", recursive=False)]
    age = {entry.path: now - datetime.fromtimestamp(entry.mtime, tz=UTC) for entry in entries}
    old = [path for path in age if path.endswith(".json") and age[path] > max_age]
    named = {path.removesuffix(".json") for path in age if path.endswith(".json") and path not in old}
    for path in old:
        await remove_file(volume, path)
    for path in age:
        unnamed = not path.endswith(".json") and (
            path.partition(".")[0] not in named or path.endswith(PARTIAL)
        )
        if unnamed and age[path] > min(REMAINS_AFTER, max_age):
            await remove_file(volume, path)
    swept = sorted(path.removesuffix(".json") for path in old)
    if swept:
        _log.info(LogEvent.CLIPS_SWEPT, clip_ids=swept)
    return swept


async def remove_file(volume: modal.Volume, name: str) -> None:
    """Remove a file of the Volume, if it is there.

    Raises:
        StorageError: It could not be removed.
    """
    with _storage_errors(f"file {name}"):
        try:
            await volume.remove_file.aio(name)
        except (FileNotFoundError, modal.exception.NotFoundError):
            return


def _size_and_hash(path: Path) -> tuple[int, str]:
    with path.open("rb") as reader:
        return path.stat().st_size, hashlib.file_digest(reader, "sha256").hexdigest()


@contextmanager
def _storage_errors(what: str) -> Iterator[None]:
    with client_errors(StorageError, f"{what} cannot be read or written"):
        try:
            yield
        except OSError as error:
            if error.errno not in DiskFullError.errnos:
                raise
            raise DiskFullError(
                f"no room for {what}: the Volume or the container's disk is full; free some space and submit the job again"
            ) from error
