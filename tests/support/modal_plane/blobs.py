"""Content store: bytes by sha256, plus the HTTP side that the client uploads to and downloads from.

Semantics: `modal/_utils/blob_utils.py` (BlobCreate, then PUT whose ETag is the MD5 of the content; BlobGet, then GET) and
`modal/volume.py` (block GET).
"""

import base64
import hashlib

from aiohttp import web
from grpclib import Status
from modal_proto import api_pb2

from .ids import Ids
from .rpc import Caller, fault


class BlobStore:
    """Every uploaded byte, keyed by sha256 hex."""

    def __init__(self, ids: Ids) -> None:
        self._ids = ids
        self._content: dict[str, bytes] = {}
        self._blobs: dict[str, bytes] = {}
        self.base_url = ""

    def put(self, data: bytes) -> str:
        """Store bytes and return their sha256 hex."""
        digest = hashlib.sha256(data).hexdigest()
        self._content[digest] = data
        return digest

    def get(self, sha256_hex: str) -> bytes:
        """Return stored bytes.

        Raises:
            KeyError: nothing with that digest was uploaded.
        """
        return self._content[sha256_hex]

    def __contains__(self, sha256_hex: str) -> bool:
        return sha256_hex in self._content

    def blob(self, blob_id: str) -> bytes:
        """Bytes of a blob that the client uploaded over HTTP."""
        if blob_id not in self._blobs:
            raise fault(Status.NOT_FOUND, f"Blob {blob_id} not found")
        return self._blobs[blob_id]

    def content_url(self, sha256_hex: str) -> str:
        """URL from which the client downloads these bytes."""
        return f"{self.base_url}/content/{sha256_hex}"

    async def BlobCreate(  # noqa: N802
        self, request: api_pb2.BlobCreateRequest, caller: Caller
    ) -> api_pb2.BlobCreateResponse:
        blob_id = self._ids.new("bl")
        return api_pb2.BlobCreateResponse(
            blob_ids=[blob_id],
            upload_urls=api_pb2.UploadUrlList(items=[f"{self.base_url}/blob/{blob_id}"]),
        )

    async def BlobGet(  # noqa: N802
        self, request: api_pb2.BlobGetRequest, caller: Caller
    ) -> api_pb2.BlobGetResponse:
        self.blob(request.blob_id)
        return api_pb2.BlobGetResponse(download_url=f"{self.base_url}/blob/{request.blob_id}")

    def http_app(self) -> web.Application:
        """The HTTP routes behind the URLs above."""
        app = web.Application(client_max_size=1 << 32)
        app.router.add_put("/blob/{blob_id}", self._put_blob)
        app.router.add_get("/blob/{blob_id}", self._get_blob)
        app.router.add_get("/content/{sha256}", self._get_content)
        return app

    async def _put_blob(self, request: web.Request) -> web.Response:
        data = await request.read()
        md5 = hashlib.md5(data)
        declared = request.headers.get("Content-MD5")
        if declared and base64.b64decode(declared) != md5.digest():
            return web.Response(
                status=400, text="The Content-MD5 you specified did not match what we received."
            )
        self._blobs[request.match_info["blob_id"]] = data
        return web.Response(headers={"ETag": f'"{md5.hexdigest()}"'})

    async def _get_blob(self, request: web.Request) -> web.Response:
        data = self._blobs.get(request.match_info["blob_id"])
        return web.Response(status=404) if data is None else web.Response(body=data)

    async def _get_content(self, request: web.Request) -> web.Response:
        digest = request.match_info["sha256"]
        if digest not in self._content:
            return web.Response(status=404)
        return web.Response(body=self._content[digest])
