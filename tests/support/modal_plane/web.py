"""The web side: one loopback address per web function; each HTTP request becomes one ASGI input.

Source: `modal/_runtime/asgi.py` and `modal/_serialization.py` (ASGI messages as DATA_FORMAT_ASGI; the request body
comes over the call's `data_in` stream, the response over `data_out`). No WebSockets.
"""

import asyncio
import contextlib

from aiohttp import web
from modal._serialization import deserialize_data_format, serialize, serialize_data_format
from modal_proto import api_pb2

from .blobs import BlobStore
from .calls import Call, Calls

ASGI = api_pb2.DATA_FORMAT_ASGI
MAX_BODY_BYTES = 4 * 1024**3  # modal.com/docs/guide/webhooks
HOP_BY_HOP = {"transfer-encoding", "connection", "keep-alive"}


class WebGateway:
    """Opens addresses and carries requests to containers and responses back."""

    def __init__(self, calls: Calls, blobs: BlobStore) -> None:
        self._calls = calls
        self._blobs = blobs
        self._runners: list[web.AppRunner] = []

    async def open(self, function_id: str) -> str:
        """Serve a web function and return its URL."""

        async def handle(request: web.Request) -> web.StreamResponse:
            return await self._handle(function_id, request)

        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", handle)
        return await self.serve(app)

    async def serve(self, app: web.Application) -> str:
        """Serve an application on a free loopback port."""
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self._runners.append(runner)
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    async def close(self) -> None:
        """Close every address."""
        for runner in self._runners:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(runner.cleanup(), 5)

    async def _handle(self, function_id: str, request: web.Request) -> web.StreamResponse:
        call = await self._begin(function_id, request)
        try:
            return await self._respond(call, request)
        except asyncio.CancelledError:
            await self._send(call, {"type": "http.disconnect"})
            raise

    async def _begin(self, function_id: str, request: web.Request) -> Call:
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": request.method,
            "scheme": "http",
            "path": request.path,
            "query_string": request.rel_url.raw_query_string.encode(),
            "headers": [(k.lower(), v) for k, v in request.raw_headers],
            "client": ("127.0.0.1", 0),
        }
        # The scope itself travels pickled: IOContext._args_and_kwargs unpacks a pair of args and kwargs.
        payload = api_pb2.FunctionInput(
            args=serialize(((scope,), {})), data_format=api_pb2.DATA_FORMAT_PICKLE
        )
        body = await request.read()
        call = await self._calls.start(function_id, [payload], api_pb2.FUNCTION_CALL_INVOCATION_TYPE_SYNC)
        await self._send(call, {"type": "http.request", "body": body, "more_body": False})
        return call

    async def _send(self, call: Call, message: dict[str, object]) -> None:
        data = serialize_data_format(message, ASGI)
        await self._calls.put_data_in(call, api_pb2.DataChunk(data_format=ASGI, data=data))

    async def _respond(self, call: Call, request: web.Request) -> web.StreamResponse:
        response: web.StreamResponse | None = None
        async for chunk in self._calls.stream(call, call.data_out, 0):
            data = self._blobs.blob(chunk.data_blob_id) if chunk.data_blob_id else chunk.data
            message = deserialize_data_format(data, chunk.data_format, None)
            if message["type"] == "http.response.start":
                response = web.StreamResponse(status=message["status"])
                for key, value in message["headers"]:
                    if key.decode().lower() not in HOP_BY_HOP:
                        response.headers.add(key.decode("latin-1"), value.decode("latin-1"))
                await response.prepare(request)
            elif message["type"] == "http.response.body" and response is not None:
                await response.write(message["body"])
                if not message["more_body"]:
                    break
        if response is None:
            result = call.inputs[0].output.result if call.inputs[0].output else None
            text = f"modal-http: internal error: {result.exception if result else 'no response'}"
            return web.Response(status=500, text=text)
        await response.write_eof()
        return response
