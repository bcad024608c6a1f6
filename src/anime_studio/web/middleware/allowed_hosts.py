"""Refuses a request whose `Host` is not a name of this server, with 421 (RFC 9110, section 15.5.20).

A page on another site can point its own name at this machine's address (DNS rebinding). For the
browser that page and this server are then one origin, and no other check can tell them apart.
Only the `Host` header still names the other site. The attack needs a name: an address as `Host`
is always the true one, so IP addresses are served. A request without `Host` comes from no browser.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Set
from typing import Final
from urllib.parse import urlsplit

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from anime_studio.web.problems import answer, status_problem

ANY_HOST: Final = "*"


class AllowedHostsMiddleware:
    """Answers 421 to a `Host` that is no IP address, no loopback name and not in *allowed*.

    Args:
        app: What serves the other requests.
        allowed: Names in lower case, without ports; `*` allows every name.
    """

    def __init__(self, app: ASGIApp, allowed: Set[str]) -> None:
        self._app = app
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or pass on what is not HTTP."""
        hosts = Headers(scope=scope).getlist("host") if scope["type"] == "http" else []
        if all(self._is_allowed(host) for host in hosts):
            await self._app(scope, receive, send)
            return
        detail = (
            "this server does not answer under the name in Host; ANIME_STUDIO_ALLOWED_HOSTS allows more names"
        )
        problem = status_problem(421, detail, scope["state"]["context"].request_id)
        await answer(Request(scope), problem)(scope, receive, send)

    def _is_allowed(self, host: str) -> bool:
        name = name_of(host)
        return ANY_HOST in self._allowed or name in self._allowed or _is_loopback_or_address(name)


def name_of(host: str) -> str:
    """Return the name or address in a `Host` header in lower case, without port; empty when there is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").removesuffix(".")
    except ValueError:
        return ""


def _is_loopback_or_address(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761: always this machine
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
