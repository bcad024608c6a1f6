"""What both clients set up alike: the address, the httpx settings, one request."""

from __future__ import annotations

from typing import Final, TypedDict

import httpx

from anime_studio.client.flows import Send, Studio

DEFAULT_URL: Final = "http://127.0.0.1:8017"
"""Where `anime-studio serve` listens unless told otherwise."""
RETRY_FOR_S: Final = 30.0
PATIENCE_S: Final = 120.0
TIMEOUT: Final = httpx.Timeout(60.0, connect=10.0, pool=None)
"""A Modal web container that has to start first holds the request meanwhile."""

_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


class Arguments(TypedDict):
    """What httpx's clients are made with."""

    timeout: httpx.Timeout
    limits: httpx.Limits
    trust_env: bool


def studio_at(url: str, retry_for_s: float, patience_s: float) -> Studio:
    """Return the studio at *url*.

    Raises:
        ValueError: It is no HTTP address.
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"{url!r} is not an address: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(f"{url!r} is not an address like http://127.0.0.1:8017")
    return Studio(url.rstrip("/"), retry_for_s, patience_s)


def arguments(url: str) -> Arguments:
    """Return the settings of the httpx client for *url*."""
    return Arguments(
        timeout=TIMEOUT,
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
        trust_env=httpx.URL(url).host not in _LOOPBACK,  # a proxy cannot reach our own machine
    )


def request_of(http: httpx.Client | httpx.AsyncClient, send: Send) -> httpx.Request:
    """Return what *send* asks for."""
    timeout = TIMEOUT.as_dict()
    if send.read_timeout_s is not None:
        timeout["read"] = send.read_timeout_s
    return http.build_request(
        send.method,
        send.url,
        headers=dict(send.headers),
        content=send.content,
        extensions={"timeout": timeout},
    )


def follows(send: Send) -> bool:
    """Whether a redirect is followed at once: what only reads may go elsewhere, the rest may not."""
    return send.method == "GET"
