"""Uploaded local files: what `modal/mount.py` sends (check by sha256, put what is missing, then the index)."""

import hashlib

from grpclib import Status
from modal_proto import api_pb2

from .blobs import BlobStore
from .ids import Ids
from .rpc import Caller, fault

CLIENT_MOUNT_PREFIX = "modal-client-mount-"


class Mounts:
    """Mount id -> remote path -> sha256 of the uploaded content."""

    def __init__(self, ids: Ids, blobs: BlobStore) -> None:
        self._ids = ids
        self._blobs = blobs
        self._files: dict[str, dict[str, api_pb2.MountFile]] = {}
        self._named: dict[str, str] = {}

    def exists(self, mount_id: str) -> bool:
        """Whether this id names a mount."""
        return mount_id in self._files

    def files(self, mount_id: str) -> dict[str, bytes]:
        """Content by absolute remote path."""
        return {path: self._blobs.get(f.sha256_hex) for path, f in self._files[mount_id].items()}

    async def MountBatchedCheckExistence(  # noqa: N802
        self, request: api_pb2.MountBatchedCheckExistenceRequest, caller: Caller
    ) -> api_pb2.MountBatchedCheckExistenceResponse:
        missing = [h for h in request.sha256_hex_hashes if h not in self._blobs]
        return api_pb2.MountBatchedCheckExistenceResponse(missing_sha256_hex_hashes=missing)

    async def MountPutFile(  # noqa: N802
        self, request: api_pb2.MountPutFileRequest, caller: Caller
    ) -> api_pb2.MountPutFileResponse:
        which = request.WhichOneof("data_oneof")
        if which:
            data = request.data if which == "data" else self._blobs.blob(request.data_blob_id)
            if hashlib.sha256(data).hexdigest() != request.sha256_hex:
                raise fault(Status.INVALID_ARGUMENT, "uploaded content does not match its sha256")
            self._blobs.put(data)
        return api_pb2.MountPutFileResponse(exists=request.sha256_hex in self._blobs)

    async def MountGetOrCreate(  # noqa: N802
        self, request: api_pb2.MountGetOrCreateRequest, caller: Caller
    ) -> api_pb2.MountGetOrCreateResponse:
        if request.object_creation_type == api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED:
            return self._answer(self._lookup(request.deployment_name))
        absent = [f.filename for f in request.files if f.sha256_hex not in self._blobs]
        if absent:
            raise fault(Status.FAILED_PRECONDITION, f"mount lists files that were never uploaded: {absent}")
        mount_id = self._ids.new("mo")
        self._files[mount_id] = {f.filename: f for f in request.files}
        return self._answer(mount_id)

    def _lookup(self, name: str) -> str:
        # Only Modal's own client mount is looked up by name; containers here take `modal` from the venv.
        if not name.startswith(CLIENT_MOUNT_PREFIX):
            raise fault(Status.NOT_FOUND, f"No mount named {name!r}")
        if name not in self._named:
            self._named[name] = self._ids.new("mo")
            self._files[self._named[name]] = {}
        return self._named[name]

    def _answer(self, mount_id: str) -> api_pb2.MountGetOrCreateResponse:
        digest = hashlib.sha256()
        for path, file in sorted(self._files[mount_id].items()):
            digest.update(f"{path}\0{file.sha256_hex}\0".encode())
        metadata = api_pb2.MountHandleMetadata(content_checksum_sha256_hex=digest.hexdigest())
        return api_pb2.MountGetOrCreateResponse(mount_id=mount_id, handle_metadata=metadata)
