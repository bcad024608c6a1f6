"""Refuses a request body that is too large: by its Content-Length, or while it streams."""

from __future__ import annotations

from fastapi import HTTPException, Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anime_studio.web.problems import answer, status_problem


class BodyLimitMiddleware:
    """Answers 413 to a body above *max_body_bytes*."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or pass on what is not HTTP."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        content_length = Headers(scope=scope).get("content-length", "")
        if content_length.isdigit() and int(content_length) > self._max_body_bytes:
            problem = status_problem(413, self._too_large(), scope["state"]["context"].request_id)
            await answer(Request(scope), problem, {"Connection": "close"})(scope, receive, send)
            return
        received_bytes = 0

        async def bounded_receive() -> Message:
            nonlocal received_bytes
            message = await receive()
            received_bytes += len(message.get("body", b""))
            if received_bytes > self._max_body_bytes:
                # FastAPI passes an HTTPException on while it reads a body.
                raise HTTPException(413, self._too_large())
            return message

        await self._app(scope, bounded_receive, send)

    def _too_large(self) -> str:
        return f"the request body may hold at most {self._max_body_bytes} bytes"
