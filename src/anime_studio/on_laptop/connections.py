"""Bounds on connections, which uvicorn does not have: how many, and how long each part may take.

uvicorn lets a server name its own protocol class (`Config.http`). This one closes a connection whose
header or body does not come, or whose answer is not read, and makes room for a new connection by
closing the one that has been idle for longest. docs/adr/0017 compares the alternatives.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from typing import Any, Final

import h11
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from anime_studio.core.errors import UnavailableError
from anime_studio.web.problems import MEDIA_TYPE

MOST_DESCRIPTORS: Final = 65_536
"""More helps nobody, and some programs loop over all of them."""
MOST_CONNECTIONS: Final = 4096
OTHER_DESCRIPTORS: Final = 128
"""For the database, the worker's pipes and the log. Each connection may hold a second one, a clip's file."""
RESERVE: Final = 64
"""Connections beyond the bound that are answered with 503; any more are closed at once."""

HEADER_S: Final = 10.0
BODY_S: Final = 30.0
UNREAD_S: Final = 300.0
"""A player that is paused reads nothing; later it asks again with `Range`."""


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files as far as the system lets us, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft if soft != resource.RLIM_INFINITY else MOST_DESCRIPTORS


def max_connections(descriptors: int) -> int:
    """Return how many connections *descriptors* open files allow."""
    return max(8, min(MOST_CONNECTIONS, (descriptors - OTHER_DESCRIPTORS) // 2 - RESERVE))


class BoundedConfig(uvicorn.Config):
    """uvicorn's configuration with the bounds of `BoundedProtocol`.

    Attributes:
        max_connections: How many are served at once.
        header_s: Longest wait for a request's header.
        body_s: Longest wait for the rest of its body.
        unread_s: Longest wait for a client to read on.
    """

    def __init__(
        self,
        app: Any,
        *,
        max_connections: int,
        header_s: float = HEADER_S,
        body_s: float = BODY_S,
        unread_s: float = UNREAD_S,
        **options: Any,
    ) -> None:
        super().__init__(app, http=BoundedProtocol, **options)
        self.max_connections = max_connections
        self.header_s, self.body_s, self.unread_s = header_s, body_s, unread_s


class BoundedProtocol(H11Protocol):
    """One connection within the bounds of a `BoundedConfig`."""

    config: BoundedConfig

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._receiving = _Limit(self._close_late)
        self._unread = _Limit(self._abort)
        self.idle_since_s = self.loop.time()

    @property
    def idle(self) -> bool:
        """Whether no answer is being made."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, making room for it."""
        super().connection_made(transport)
        over = len(self.connections) - self.config.max_connections
        if over > 0 and not self._close_longest_idle():
            if over > RESERVE:
                self._abort()
                return
            self.app = _too_many_connections
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take bytes of a request; they do not extend the time for the rest of it."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self.idle_since_s = self.loop.time()
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the limits."""
        self._receiving.end()
        self._unread.end()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not read as fast as the answer is made."""
        super().pause_writing()
        self._unread.begin("answer", self.config.unread_s, self.loop)

    def resume_writing(self) -> None:
        """It has read on."""
        super().resume_writing()
        self._unread.end()

    def _watch(self) -> None:
        if self.conn.their_state is h11.SEND_BODY:
            self._receiving.begin("body", self.config.body_s, self.loop)
        elif self.conn.their_state is h11.IDLE:
            self._receiving.begin("header", self.config.header_s, self.loop)
        else:
            self._receiving.end()

    def _close_late(self) -> None:
        # A late header is told nothing: most such clients only hold the connection.
        if self.conn.their_state is h11.SEND_BODY and self.conn.our_state is h11.SEND_RESPONSE:
            self.transport.write(
                b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            )
        self.transport.close()

    def _close_longest_idle(self) -> bool:
        others = (
            other for other in self.connections if isinstance(other, BoundedProtocol) and other is not self
        )
        idle = min(
            (other for other in others if other.idle), key=lambda other: other.idle_since_s, default=None
        )
        if idle is not None:
            idle.transport.close()
            self.connections.discard(idle)
        return idle is not None

    def _abort(self) -> None:
        self.transport.abort()


class _Limit:
    """A time limit on one phase of a connection."""

    def __init__(self, on_late: Callable[[], None]) -> None:
        self._on_late = on_late
        self._phase: str | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, phase: str, limit_s: float, loop: asyncio.AbstractEventLoop) -> None:
        """Begin *phase*; a phase that goes on keeps its limit."""
        if phase != self._phase:
            self.end()
            self._phase, self._timer = phase, loop.call_later(limit_s, self._on_late)

    def end(self) -> None:
        """End the phase in time."""
        self._phase = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


async def _too_many_connections(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
    error = UnavailableError(
        "as many connections are open as this server allows; try again soon", retry_after_s=1
    )
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"retry-after", b"1"),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    body = error.problem().model_dump_json(exclude_none=True).encode()
    await send({"type": "http.response.body", "body": body, "more_body": False})
