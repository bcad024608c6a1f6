"""What a request may be and where it may come from: JSON, bounded size checked before it is read, no other site."""

from __future__ import annotations

from fastapi import HTTPException, Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anime_studio.web.problems import answer, status_problem


class BodyLimitMiddleware:
    """Refuses bodies above a size with 413, whether announced or streamed."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or pass on what is not HTTP."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdigit() and int(announced) > self._max_body_bytes:
            problem = status_problem(413, self._too_large(), scope["state"]["context"].request_id)
            await answer(Request(scope), problem, {"Connection": "close"})(scope, receive, send)
            return
        received_bytes = 0

        async def bounded_receive() -> Message:
            nonlocal received_bytes
            message = await receive()
            received_bytes += len(message.get("body", b""))
            if received_bytes > self._max_body_bytes:
                # FastAPI lets this one through while it reads a body.
                raise HTTPException(413, self._too_large())
            return message

        await self._app(scope, bounded_receive, send)

    def _too_large(self) -> str:
        return f"the request body may hold at most {self._max_body_bytes} bytes"


def require_json(request: Request) -> None:
    """Refuse a body that does not say that it is JSON.

    Also what keeps a web page of another origin from posting without a preflight.

    Raises:
        HTTPException: 415.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise HTTPException(415, "send the body as application/json")


def refuse_other_sites(request: Request) -> None:
    """Refuse what a browser sends for a page of another site: it would spend the operator's GPU.

    For routes that take no JSON body, whose media type alone would ask for a preflight.

    Raises:
        HTTPException: 403.
    """
    if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise HTTPException(403, "pages of other sites may not do this")
