"""`modal.Dict` (`modal/dict.py`): bytes to bytes, atomic per call, `put(skip_if_exists=True)` creates once."""

import time
from collections.abc import AsyncGenerator

from google.protobuf.empty_pb2 import Empty
from grpclib import Status
from modal_proto import api_pb2

from .ids import Ids
from .rpc import Caller, fault


class Dicts:
    """All Dicts of the workspace. One event loop serves every call, so each call is atomic."""

    def __init__(self, ids: Ids) -> None:
        self._ids = ids
        self._by_name: dict[str, str] = {}
        self._entries: dict[str, dict[bytes, bytes]] = {}

    def _dict(self, dict_id: str) -> dict[bytes, bytes]:
        if dict_id not in self._entries:
            raise fault(Status.NOT_FOUND, f"Dict {dict_id} not found")
        return self._entries[dict_id]

    async def DictGetOrCreate(  # noqa: N802
        self, request: api_pb2.DictGetOrCreateRequest, caller: Caller
    ) -> api_pb2.DictGetOrCreateResponse:
        name, kind = request.deployment_name, request.object_creation_type
        if name in self._by_name and kind == api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS:
            raise fault(Status.ALREADY_EXISTS, f"Dict '{name}' already exists")
        if name not in self._by_name:
            if kind == api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED:
                raise fault(Status.NOT_FOUND, f"Dict '{name}' not found in environment 'main'")
            dict_id = self._ids.new("di")
            self._entries[dict_id] = {}
            if not name:
                return self._answer(dict_id, name)
            self._by_name[name] = dict_id
        return self._answer(self._by_name[name], name)

    def _answer(self, dict_id: str, name: str) -> api_pb2.DictGetOrCreateResponse:
        created = api_pb2.CreationInfo(created_at=time.time())
        metadata = api_pb2.DictMetadata(name=name, creation_info=created)
        return api_pb2.DictGetOrCreateResponse(dict_id=dict_id, metadata=metadata)

    async def DictUpdate(  # noqa: N802
        self, request: api_pb2.DictUpdateRequest, caller: Caller
    ) -> api_pb2.DictUpdateResponse:
        entries = self._dict(request.dict_id)
        if request.if_not_exists and any(u.key in entries for u in request.updates):
            return api_pb2.DictUpdateResponse(created=False)
        entries.update({u.key: u.value for u in request.updates})
        return api_pb2.DictUpdateResponse(created=True)

    async def DictGet(  # noqa: N802
        self, request: api_pb2.DictGetRequest, caller: Caller
    ) -> api_pb2.DictGetResponse:
        value = self._dict(request.dict_id).get(request.key)
        return api_pb2.DictGetResponse(found=value is not None, value=value)

    async def DictPop(  # noqa: N802
        self, request: api_pb2.DictPopRequest, caller: Caller
    ) -> api_pb2.DictPopResponse:
        value = self._dict(request.dict_id).pop(request.key, None)
        return api_pb2.DictPopResponse(found=value is not None, value=value)

    async def DictContains(  # noqa: N802
        self, request: api_pb2.DictContainsRequest, caller: Caller
    ) -> api_pb2.DictContainsResponse:
        return api_pb2.DictContainsResponse(found=request.key in self._dict(request.dict_id))

    async def DictContents(  # noqa: N802
        self, request: api_pb2.DictContentsRequest, caller: Caller
    ) -> AsyncGenerator[api_pb2.DictEntry, None]:
        for key, value in list(self._dict(request.dict_id).items()):
            yield api_pb2.DictEntry(key=key, value=value if request.values else b"")

    async def DictClear(  # noqa: N802
        self, request: api_pb2.DictClearRequest, caller: Caller
    ) -> Empty:
        self._dict(request.dict_id).clear()
        return Empty()
