"""Links that are right behind Modal's proxy, whatever a container sees of the outer address.

A clip's link must name an address that the caller can open. Which scheme and host reach a container is not
documented, so a request is taken to have come to the known public address that its `Host` names, else to the
first one; `request.base_url` and with it every link follows.
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
            scope = _as_if_sent_to(addresses, scope)
        await self._app(scope, receive, send)


def _as_if_sent_to(addresses: Sequence[str], scope: Scope) -> Scope:
    asked = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1")
    known = {urlsplit(address).netloc: address for address in addresses}
    public = urlsplit(known.get(asked, addresses[0]))
    others = [(name, value) for name, value in scope["headers"] if name != b"host"]
    return {**scope, "scheme": public.scheme, "headers": [(b"host", public.netloc.encode()), *others]}
