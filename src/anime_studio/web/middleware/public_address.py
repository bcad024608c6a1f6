"""Correct links behind Modal's proxy.

A clip's link must name an address that the caller can open. Modal does not document which scheme
and host reach a container. So each request gets the scheme and host of the public address that its
`Host` names, or else of the first public address; `request.base_url` and every link follow them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send


class PublicAddressMiddleware:
    """Sets scheme and `Host` of each request to one of the deployment's public addresses."""

    def __init__(self, app: ASGIApp, addresses: Callable[[], Sequence[str]]) -> None:
        """Take the app, and how to ask for the addresses (`https://host`, preferred first) once it runs."""
        self._app = app
        self._addresses = addresses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] == "http" and (addresses := self._addresses()):
            scope = _sent_to(addresses, scope)
        await self._app(scope, receive, send)


def _sent_to(addresses: Sequence[str], scope: Scope) -> Scope:
    host = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1")
    known = {urlsplit(address).netloc: address for address in addresses}
    public = urlsplit(known.get(host, addresses[0]))
    others = [(name, value) for name, value in scope["headers"] if name != b"host"]
    return {**scope, "scheme": public.scheme, "headers": [(b"host", public.netloc.encode()), *others]}
