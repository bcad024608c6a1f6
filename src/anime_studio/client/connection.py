"""What both clients share: the address, the httpx settings, the making of a request, the bounds of an answer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import httpx

from anime_studio.client.errors import ClientSettingsError, shown, unexpected
from anime_studio.client.flows import Send, Studio

DEFAULT_URL: Final = "http://127.0.0.1:8017"
"""Where `anime-studio serve` listens by default."""
RETRY_FOR_S: Final = 30.0
PATIENCE_S: Final = 120.0
TIMEOUT: Final = httpx.Timeout(60.0, connect=10.0, pool=None)
"""Long, because Modal holds the request while a web container starts."""

LARGEST_ANSWER_BYTES: Final = 16 * 1024**2
"""Of an answer that is read as a whole; 1,000 jobs of `/status` are below 1 MiB. Clips are streamed to a file."""

_ENVIRONMENT: Final = ("NO_PROXY", "ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


def studio_at(url: str, retry_for_s: float, patience_s: float) -> Studio:
    """Return the studio at *url*.

    Raises:
        ValueError: It is no HTTP address.
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"{shown(url)!r} is not an address: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(f"{shown(url)!r} is not an address like http://127.0.0.1:8017")
    return Studio(url.rstrip("/"), retry_for_s, patience_s)


def settings_for(url: str) -> dict[str, Any]:
    """Return the settings of the httpx client for *url*."""
    return {
        "timeout": TIMEOUT,
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=20),
        "trust_env": httpx.URL(url).host not in _LOOPBACK,  # a proxy cannot reach the caller's own machine
    }


@contextmanager
def checking_environment() -> Iterator[None]:
    """Turn what httpx raises for the settings it reads from the environment into an error with words.

    Raises:
        ClientSettingsError: It names the variables that are set.
    """
    try:
        yield
    # httpx has no common base for these: a bad NO_PROXY is InvalidURL, a SOCKS proxy ImportError, a bad proxy
    # scheme ValueError, a missing certificate file OSError.
    except (httpx.InvalidURL, ImportError, ValueError, OSError) as error:
        names = (name for name in _ENVIRONMENT for name in (name, name.lower()) if os.environ.get(name))
        given = ", ".join(f"{name}={shown(os.environ[name])}" for name in names) or "none is set"
        raise ClientSettingsError(
            f"the proxy or certificate settings of the environment cannot be used ({given}): {error}"
        ) from error


def check_encoding(answer: httpx.Response) -> None:
    """Refuse a compressed answer: none was asked for, and a small one can fill the memory.

    Raises:
        StudioError: It is compressed.
    """
    encoding = answer.headers.get("content-encoding", "identity")
    if encoding.strip().lower() != "identity":
        raise unexpected(answer.request.url, "sent a compressed answer, which was not asked for")


class Body:
    """Collects the body of an answer that is read as a whole."""

    def __init__(self, answer: httpx.Response) -> None:
        self._answer = answer
        self._content = bytearray()

    def add(self, chunk: bytes) -> None:
        """Add the next bytes.

        Raises:
            StudioError: They are more than `LARGEST_ANSWER_BYTES`.
        """
        self._content += chunk
        if len(self._content) > LARGEST_ANSWER_BYTES:
            raise unexpected(self._answer.request.url, f"sent more than {LARGEST_ANSWER_BYTES} bytes")

    def whole(self) -> httpx.Response:
        """Return the answer with its whole body."""
        answer = self._answer
        return httpx.Response(
            answer.status_code,
            headers=[header for header in answer.headers.raw if header[0].lower() != b"transfer-encoding"],
            content=bytes(self._content),
            request=answer.request,
            extensions={"reason_phrase": answer.reason_phrase.encode("ascii", "replace")},
        )


def request_of(http: httpx.Client | httpx.AsyncClient, send: Send) -> httpx.Request:
    """Return *send* as an httpx request."""
    timeout = TIMEOUT.as_dict()
    if send.read_timeout_s is not None:
        timeout["read"] = send.read_timeout_s
    return http.build_request(
        send.method,
        send.url,
        headers={"Accept-Encoding": "identity", **send.headers},
        content=send.content,
        extensions={"timeout": timeout},
    )
