"""Redirects `/health/` to `/health`, by a relative address.

Starlette redirects to an absolute address, whose scheme and host are wrong behind a proxy. A
relative one is right behind any proxy and under any prefix (RFC 3986, section 5.2). The page is not
served here, because its own links are relative too.
"""

from __future__ import annotations

from urllib.parse import quote

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send


class TrailingSlashMiddleware:
    """Answers 307, which keeps method and body, to a path with one slash at its end."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or pass on what is not HTTP."""
        name, last = _last_parts(_encoded_path(scope)) if scope["type"] == "http" else (b"", b"")
        if last or not name:
            await self._app(scope, receive, send)
            return
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        location = b"../" + name + query
        await Response(status_code=307, headers={"Location": location.decode("latin-1")})(
            scope, receive, send
        )


def _encoded_path(scope: Scope) -> bytes:
    """Return the path as it was sent; `raw_path` is optional (ASGI 2.3), and Modal's server leaves it out."""
    return scope.get("raw_path") or quote(scope["path"]).encode()


def _last_parts(path: bytes) -> tuple[bytes, bytes]:
    before, _, last = path.rpartition(b"/")
    return before.rpartition(b"/")[2], last
