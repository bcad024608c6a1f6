"""Volumes seen from outside a container (`modal/volume.py`): only committed files exist here.

Uploads, listings, reads, removals and copies work on the committed state; containers add to it through
`mounted.py`. Version 1 uploads whole files by sha256, version 2 uploads 8 MiB blocks.
"""

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from google.protobuf.empty_pb2 import Empty
from grpclib import Status
from modal_proto import api_pb2

from .blobs import BlobStore
from .ids import Ids
from .rpc import Caller, fault

BLOCK_BYTES = 8 * 1024 * 1024  # modal/_utils/blob_utils.py: BLOCK_SIZE


@dataclass(frozen=True)
class VolumeFile:
    """One committed file."""

    sha256_hex: str
    size_bytes: int
    mode: int = 0o644
    mtime_s: float = field(default_factory=time.time)


@dataclass
class Volume:
    """One Volume; paths are relative, without a leading slash."""

    volume_id: str
    name: str
    version: "api_pb2.VolumeFsVersion.ValueType"
    files: dict[str, VolumeFile] = field(default_factory=dict)


def clean(path: str) -> str:
    """`/a//b/` and `a/b` name the same file; the root is the empty string."""
    return "/".join(p for p in PurePosixPath("/", path).parts[1:] if p != ".")


class Volumes:
    """All Volumes of the workspace."""

    def __init__(self, ids: Ids, blobs: BlobStore) -> None:
        self._ids = ids
        self.blobs = blobs
        self._by_id: dict[str, Volume] = {}

    def create(
        self, name: str, version: "api_pb2.VolumeFsVersion.ValueType" = api_pb2.VOLUME_FS_VERSION_V1
    ) -> Volume:
        """Create a Volume, as `modal volume create` does."""
        volume = Volume(self._ids.new("vo"), name, version)
        self._by_id[volume.volume_id] = volume
        return volume

    def named(self, name: str) -> Volume | None:
        """The Volume with this name, if any."""
        return next((v for v in self._by_id.values() if name and v.name == name), None)

    def get(self, volume_id: str) -> Volume:
        """The Volume with this id, or a NOT_FOUND fault."""
        if volume_id not in self._by_id:
            raise fault(Status.NOT_FOUND, f"Volume {volume_id} not found")
        return self._by_id[volume_id]

    def exists(self, volume_id: str) -> bool:
        """Whether this id names a Volume."""
        return volume_id in self._by_id

    def read(self, name: str) -> dict[str, bytes]:
        """Committed content of every file of a Volume, by path."""
        volume = self.named(name)
        return {p: self.blobs.get(f.sha256_hex) for p, f in list(volume.files.items())} if volume else {}

    def write(self, name: str, path: str, data: bytes) -> None:
        """Put one committed file, as a batch upload does."""
        volume = self.named(name) or self.create(name)
        volume.files[clean(path)] = VolumeFile(self.blobs.put(data), len(data))

    async def VolumeGetOrCreate(  # noqa: N802
        self, request: api_pb2.VolumeGetOrCreateRequest, caller: Caller
    ) -> api_pb2.VolumeGetOrCreateResponse:
        name, kind = request.deployment_name, request.object_creation_type
        volume = self.named(name)
        if volume and kind == api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS:
            raise fault(Status.ALREADY_EXISTS, f"Volume '{name}' already exists")
        if volume is None:
            if kind == api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED:
                raise fault(Status.NOT_FOUND, f"Volume '{name}' not found in environment 'main'")
            volume = self.create(name, request.version or api_pb2.VOLUME_FS_VERSION_V1)
        return api_pb2.VolumeGetOrCreateResponse(
            volume_id=volume.volume_id, version=volume.version, metadata=self.metadata(volume.volume_id)
        )

    def metadata(self, volume_id: str) -> api_pb2.VolumeMetadata:
        """Handle metadata that hydrates a client object."""
        volume = self._by_id[volume_id]
        created = api_pb2.CreationInfo(created_at=time.time())
        return api_pb2.VolumeMetadata(version=volume.version, name=volume.name, creation_info=created)

    async def VolumeGetFile2(  # noqa: N802
        self, request: api_pb2.VolumeGetFile2Request, caller: Caller
    ) -> api_pb2.VolumeGetFile2Response:
        volume = self.get(request.volume_id)
        file = volume.files.get(clean(request.path))
        if file is None:
            raise fault(Status.NOT_FOUND, f"{request.path}: No such file or directory")
        data = self.blobs.get(file.sha256_hex)
        blocks = [data[i : i + BLOCK_BYTES] for i in range(0, len(data), BLOCK_BYTES)]
        urls = [self.blobs.content_url(self.blobs.put(block)) for block in blocks]
        return api_pb2.VolumeGetFile2Response(get_urls=urls, size=len(data), start=0, len=len(data))

    def _entries(
        self, request: api_pb2.VolumeListFilesRequest | api_pb2.VolumeListFiles2Request
    ) -> list[api_pb2.FileEntry]:
        volume, root = self.get(request.volume_id), clean(request.path)
        if root in volume.files:
            return [_entry(root, volume.files[root])]
        prefix = f"{root}/" if root else ""
        inside = {p: f for p, f in volume.files.items() if p.startswith(prefix)}
        if root and not inside:
            raise fault(Status.NOT_FOUND, f"{request.path}: No such file or directory")
        folders: set[str] = set()
        for path in inside:
            parents = [str(p) for p in PurePosixPath(path).parents if str(p) != "."]
            folders |= {p for p in parents if p.startswith(prefix)}
        entries = [_entry(p, f) for p, f in inside.items()]
        entries += [api_pb2.FileEntry(path=p, type=api_pb2.FileEntry.DIRECTORY) for p in folders]
        return sorted(
            (e for e in entries if request.recursive or "/" not in e.path[len(prefix) :]),
            key=lambda e: e.path,
        )

    async def VolumeListFiles(  # noqa: N802
        self, request: api_pb2.VolumeListFilesRequest, caller: Caller
    ) -> AsyncGenerator[api_pb2.VolumeListFilesResponse, None]:
        yield api_pb2.VolumeListFilesResponse(entries=self._entries(request))

    async def VolumePutFiles(  # noqa: N802
        self, request: api_pb2.VolumePutFilesRequest, caller: Caller
    ) -> Empty:
        volume = self.get(request.volume_id)
        names = [clean(file.filename) for file in request.files]
        if request.disallow_overwrite_existing_files and (there := volume.files.keys() & set(names)):
            raise fault(Status.ALREADY_EXISTS, f"{', '.join(sorted(there))} already exists")
        for name, file in zip(names, request.files, strict=True):
            volume.files[name] = VolumeFile(file.sha256_hex, len(self.blobs.get(file.sha256_hex)), file.mode)
        return Empty()

    async def VolumeRemoveFile(  # noqa: N802
        self, request: api_pb2.VolumeRemoveFileRequest, caller: Caller
    ) -> Empty:
        volume, path = self.get(request.volume_id), clean(request.path)
        inside = [p for p in volume.files if p.startswith(f"{path}/")]
        if path not in volume.files and not inside:
            raise fault(Status.NOT_FOUND, f"{request.path}: No such file or directory")
        if inside and not request.recursive:
            raise fault(Status.INVALID_ARGUMENT, f"{request.path}: Is a directory")
        for gone in [path, *inside]:
            volume.files.pop(gone, None)
        return Empty()


def _entry(path: str, file: VolumeFile) -> api_pb2.FileEntry:
    return api_pb2.FileEntry(
        path=path, type=api_pb2.FileEntry.FILE, size=file.size_bytes, mtime=int(file.mtime_s)
    )
