"""The context of each request: its ids, its log line, its metrics, and a 500 when code fails.

Pure ASGI, because an endpoint does not see the values that FastAPI's `http` middleware binds
(fastapi/fastapi #4696). The log line names the route's template, never the path or the query:
the signature in a clip's link opens the clip.
"""

from __future__ import annotations

import time
from typing import Final

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anime_studio.core.errors import AnimeStudioError
from anime_studio.telemetry import LogEvent
from anime_studio.web.metrics import Metrics
from anime_studio.web.problems import answer as problem_answer
from anime_studio.web.request_ids import RequestContext, read_context

GENERATE_ROUTES: Final = frozenset({("POST", "/generate"), ("POST", "/v1/videos")})
"""An error answer of these is a refused job."""
UNMATCHED: Final = "(unmatched)"
CLIENT_CLOSED_REQUEST: Final = 499
"""Logged when the caller left before the answer began; nginx's number for it."""

SECURITY_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # clip links and job ids are capabilities
    "X-Frame-Options": "DENY",
}
"""For answers that set none themselves."""
DATA_POLICY: Final = "default-src 'none'; frame-ancestors 'none'"
"""Content-Security-Policy of every answer that is not a page; pages set their own."""

_log = structlog.get_logger(__name__)


def context_of(request: Request) -> RequestContext:
    """Return the ids of the request being served."""
    context: RequestContext = request.state.context
    return context


class ContextMiddleware:
    """The outermost middleware of the application."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or pass on what is not HTTP."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        context = read_context(headers.getlist("x-request-id"), headers.getlist("traceparent"))
        scope.setdefault("state", {})["context"] = context
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=context.request_id)
        if context.trace_id is not None:
            structlog.contextvars.bind_contextvars(trace_id=context.trace_id)
        answer = _Answer(send, context)
        started = time.perf_counter()
        try:
            await self._serve(scope, receive, answer)
        finally:
            self._record(scope, headers, answer, time.perf_counter() - started)

    async def _serve(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        try:
            await self._app(scope, receive, answer)
        except Exception as error:
            if answer.started and isinstance(error, OSError):
                # Most often the caller disconnected while the body was sent. That is no fault of the server.
                _log.warning(LogEvent.REQUEST_CUT, route=_route_of(scope), error=repr(error))
                return
            _log.exception(LogEvent.REQUEST_FAILED, method=scope["method"], route=_route_of(scope))
            if answer.started:
                raise  # too late for a status; the server must cut the connection
            internal = AnimeStudioError("an unexpected error; it was logged under this request id")
            problem = internal.problem(answer.context.request_id)
            await problem_answer(Request(scope), problem)(scope, receive, answer)

    def _record(self, scope: Scope, headers: Headers, answer: _Answer, duration_s: float) -> None:
        route = _route_of(scope)
        status = answer.status or CLIENT_CLOSED_REQUEST
        self._metrics.observe_http(scope["method"], route, status, duration_s)
        extra = {"range": headers["range"][:100]} if "range" in headers else {}
        if code := scope["state"].get("error_code"):
            extra["error_code"] = code
            if (scope["method"], route) in GENERATE_ROUTES:
                self._metrics.count_refusal(code)
        _log.info(
            LogEvent.REQUEST_ANSWERED,
            method=scope["method"],
            route=route,
            status=status,
            duration_s=round(duration_s, 6),
            bytes_sent=answer.bytes_sent,
            **extra,
        )


class _Answer:
    """`send`, which adds ids and security headers and counts the bytes."""

    def __init__(self, send: Send, context: RequestContext) -> None:
        self._send = send
        self.context = context
        self.status: int | None = None
        self.bytes_sent = 0

    @property
    def started(self) -> bool:
        return self.status is not None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = self.context.request_id
            if self.context.traceparent is not None:
                headers["traceparent"] = self.context.traceparent
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
            if "frame-ancestors *" in headers.get("Content-Security-Policy", ""):
                del headers["X-Frame-Options"]  # it has no word for "any site may frame this"
            headers.setdefault("Cache-Control", "no-store")
            if not headers.get("Content-Type", "").startswith("text/html"):
                headers.setdefault("Content-Security-Policy", DATA_POLICY)
        elif message["type"] == "http.response.body":
            self.bytes_sent += len(message.get("body", b""))
        await self._send(message)


def _route_of(scope: Scope) -> str:
    return getattr(scope.get("route"), "path", None) or UNMATCHED
