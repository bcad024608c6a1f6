"""Answers HEAD wherever GET is served: uptime monitors and players probe with it.

FastAPI adds no HEAD to a GET route. A route that takes HEAD itself is left alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class _HeadAnsweredError(Exception):
    """The headers are sent; the rest of the GET is not wanted."""


class HeadMiddleware:
    """Runs the GET of a path for its headers, and stops it there: an event stream would never end."""

    def __init__(self, app: ASGIApp, routes: Sequence[APIRoute]) -> None:
        self._app = app
        self._with_head = [route.path_regex for route in routes if "HEAD" in (route.methods or ())]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or pass on what is not HTTP."""
        if (
            scope["type"] != "http"
            or scope["method"] != "HEAD"
            or any(path.match(scope["path"]) for path in self._with_head)
        ):
            await self._app(scope, receive, send)
            return
        get = {**scope, "method": "GET"}

        async def send_headers(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.start":
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                raise _HeadAnsweredError

        try:
            await self._app(get, receive, send_headers)
        except* _HeadAnsweredError:
            pass
        finally:
            scope["route"] = get.get("route")  # for the log line
