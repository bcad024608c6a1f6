"""Finished clips on the Volume `anime-outputs`: written through a mount, read without one.

The layout is that of `folder_clips`: a sidecar `<clip_id>.json`, written last, names two files by their hash.
The GPU container writes, then commits: before the commit nobody else sees a byte. Web containers never mount
the Volume, because a reload is refused while any file is open and shows an empty folder meanwhile (guide,
"Volumes"). They read files whole through the client, check them, and serve them from a bounded local folder.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import shutil
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import modal
import structlog
from grpclib.exceptions import GRPCError, StreamTerminatedError
from pydantic import ValidationError

from anime_studio.core.errors import DiskFullError, StorageError
from anime_studio.core.jobs import Asset, ClipFile, RenderedClip, StoredClip
from anime_studio.telemetry import CLIP_DAMAGED, CLIPS_SWEPT
from common.schemas import CLIP_ID_PATTERN

PARTIAL: Final = ".partial"
TRUST_SIDECAR_S: Final = 10.0
"""A player asks for many ranges of one clip; a clip that was removed may be served this much longer."""
UNNAMED_FOR: Final = timedelta(hours=1)
"""Files that no sidecar names for so long are a crash's remains."""

_CLIP_ID = re.compile(CLIP_ID_PATTERN.strip("^$"))
_log = structlog.get_logger(__name__)


class MountedClips:
    """A `ClipWriter` on the mounted Volume."""

    def __init__(self, folder: Path, commit: Callable[[], None]) -> None:
        self._folder = folder
        self._commit = commit

    def publish(self, clip_id: str, rendered: RenderedClip) -> StoredClip:
        """See `ClipWriter.publish`; what makes it durable and visible is the commit, not a sync of the mount."""
        with _storage_errors(f"clip {clip_id}"):
            size_bytes, sha256 = self._take_in(clip_id, rendered.video, Asset.VIDEO)
            poster_size_bytes, poster_sha256 = self._take_in(clip_id, rendered.poster, Asset.POSTER)
            clip = StoredClip(
                clip_id=clip_id,
                size_bytes=size_bytes,
                sha256=sha256,
                poster_size_bytes=poster_size_bytes,
                poster_sha256=poster_sha256,
                width=rendered.width,
                height=rendered.height,
                num_frames=rendered.num_frames,
                fps=rendered.fps,
            )
            partial = self._folder / f"{clip_id}.json{PARTIAL}"
            partial.write_text(clip.model_dump_json())
            partial.replace(self._folder / f"{clip_id}.json")
            self._commit()
        return clip

    def _take_in(self, clip_id: str, source: Path, asset: Asset) -> tuple[int, str]:
        with source.open("rb") as reader:
            sha256 = hashlib.file_digest(reader, "sha256").hexdigest()
        partial = self._folder / f"{clip_id}{asset.suffix}{PARTIAL}"
        shutil.copyfile(source, partial)
        partial.replace(self._folder / file_name(clip_id, sha256, asset))
        return source.stat().st_size, sha256


class VolumeClips:
    """A `ClipReader` over the client's calls, with a folder of local copies."""

    def __init__(self, volume: modal.Volume, cache: Path, *, max_bytes: int) -> None:
        self._volume = volume
        self._cache = cache
        self._max_bytes = max_bytes
        self._sidecars: dict[str, tuple[float, StoredClip]] = {}
        self._one_at_a_time: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def find(self, clip_id: str) -> StoredClip | None:
        """See `ClipReader.find`."""
        if not _CLIP_ID.fullmatch(clip_id):
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
            _log.error(CLIP_DAMAGED, file=f"{clip_id}.json", reason="not a clip's sidecar")
            return None
        self._sidecars[clip_id] = now, clip
        return clip

    async def open(self, clip: StoredClip, asset: Asset) -> ClipFile | None:
        """See `ClipReader.open`: fetched once, checked by size and hash, then served from here."""
        size_bytes, sha256 = clip.size_and_hash(asset)
        name = file_name(clip.clip_id, sha256, asset)
        path = self._cache / name
        async with self._alone(name):
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
        names = [file_name(clip_id, clip.size_and_hash(asset)[1], asset) for asset in Asset]
        for name in [f"{clip_id}.json", *names]:
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
                _log.error(CLIP_DAMAGED, file=name, reason=f"{received} bytes, sha256 {digest.hexdigest()}")
                return False
            partial.replace(path)
        except FileNotFoundError:
            return False
        finally:
            partial.unlink(missing_ok=True)
        self._make_room(keep=path)
        return True

    def _make_room(self, keep: Path) -> None:
        files = sorted(
            (path for path in self._cache.iterdir() if path != keep), key=lambda path: path.stat().st_mtime
        )
        total_bytes = keep.stat().st_size + sum(path.stat().st_size for path in files)
        for path in files:
            if total_bytes <= self._max_bytes:
                return
            total_bytes -= path.stat().st_size
            path.unlink(missing_ok=True)  # a response that has it open goes on

    async def _read(self, name: str) -> AsyncIterator[bytes]:
        with _storage_errors(f"file {name}"):
            async for chunk in self._volume.read_file.aio(name):
                yield chunk

    @asynccontextmanager
    async def _alone(self, name: str) -> AsyncIterator[None]:
        lock = self._one_at_a_time[name]
        async with lock:
            yield
        if not lock.locked():
            self._one_at_a_time.pop(name, None)


async def sweep_clips(volume: modal.Volume, now: datetime, max_age: timedelta) -> Sequence[str]:
    """Remove clips older than *max_age*, the sidecar first, and what no sidecar names; return the clips' ids.

    Raises:
        StorageError: The Volume cannot be listed or changed.
    """
    with _storage_errors("the Volume's files"):
        entries = [entry async for entry in volume.iterdir.aio("/", recursive=False)]
    age = {entry.path: now - datetime.fromtimestamp(entry.mtime, tz=UTC) for entry in entries}
    old = [path for path in age if path.endswith(".json") and age[path] > max_age]
    kept = {path.removesuffix(".json") for path in age if path.endswith(".json") and path not in old}
    for path in old:
        await remove_file(volume, path)
    for path in age:
        unnamed = not path.endswith(".json") and (
            path.partition(".")[0] not in kept or path.endswith(PARTIAL)
        )
        if unnamed and age[path] > min(UNNAMED_FOR, max_age):
            await remove_file(volume, path)
    swept = sorted(path.removesuffix(".json") for path in old)
    if swept:
        _log.info(CLIPS_SWEPT, clip_ids=swept)
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


def file_name(clip_id: str, sha256: str, asset: Asset) -> str:
    """Return the name of one file of a clip."""
    return f"{clip_id}.{sha256[:16]}{asset.suffix}"


@contextmanager
def _storage_errors(what: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in DiskFullError.errnos:
            raise DiskFullError(f"no room for {what}; the Volume or the container's disk is full") from error
        raise StorageError(f"{what} cannot be used: {error}; try again") from error
    except (modal.exception.Error, GRPCError, StreamTerminatedError) as error:
        raise StorageError(f"{what} cannot be reached on Modal: {error}; try again") from error
