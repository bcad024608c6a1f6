"""Sign and check `/outputs` and `/watch` URLs.

The signature covers version, logical method, clip id, asset, expiry and disposition,
but not the host: a link is valid behind any domain. One signature serves GET and
HEAD, because players probe with HEAD. Keys rotate: the newest signs, all verify.
HMAC-SHA-256 over a canonical string, base64url without padding, by `itsdangerous`.

A watch link is signed for another verb, so neither kind of link opens what the other does (ADR 23).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlencode

from itsdangerous import Signer
from itsdangerous.encoding import base64_decode, base64_encode

from anime_studio.core.errors import (
    ClipUrlExpiredError,
    ClipUrlInvalidError,
    ClipUrlMalformedError,
    ConfigurationError,
)
from anime_studio.core.ids import is_clip_id
from anime_studio.core.jobs import Asset

MIN_KEY_CHARS = 32
MAX_TTL = timedelta(hours=24)
"""A link further in the future was not made by this service's settings, even when validly signed."""

MAX_WATCH_TTL = timedelta(days=3650)
"""As `MAX_TTL`, for watch links: no deployment keeps a clip longer."""

_EXPIRES = re.compile(r"[1-9][0-9]{9,10}\Z", re.ASCII)
_SIGNATURE = re.compile(r"[A-Za-z0-9_-]{43}\Z", re.ASCII)
_SIGNED = ("expires", "signature", "dl")
_ADDED_BY_CHAT = re.compile(r"[^A-Za-z0-9_\x00-\x1f-]+\Z", re.ASCII)
"""What a chat program takes into a link's end: `)`, `.`, `>`, invisible characters. No value of ours ends so."""


@dataclass(frozen=True, slots=True)
class ClipLink:
    """A link that was checked: what it opens and until when."""

    clip_id: str
    asset: Asset
    expires_at: datetime
    download: bool


@dataclass(frozen=True, slots=True)
class WatchLink:
    """A signed link to the page that shows a clip, and to the page's video and poster."""

    clip_id: str
    expires_at: datetime
    signature: str

    def path(self, asset: Asset | None = None) -> str:
        """Return `/watch/…?expires=…&signature=…`: the page, or the address that leads to one file of the clip."""
        query = urlencode({"expires": int(self.expires_at.timestamp()), "signature": self.signature})
        return f"/watch/{self.clip_id}{f'/{asset}' if asset else ''}?{query}"


class UrlSigner:
    """Makes and checks the path and query of clip links and watch links."""

    def __init__(self, keys: Sequence[str]) -> None:
        """Args: keys: Secret keys, oldest first; the last one signs.

        Raises:
            ConfigurationError: No key, or one that is too short.
        """
        if not keys or any(len(key) < MIN_KEY_CHARS for key in keys):
            raise ConfigurationError(
                f"signing keys must each have at least {MIN_KEY_CHARS} characters; make one with: anime-studio keys new"
            )
        self._signer = Signer(
            list(keys), salt=b"anime-studio.outputs", key_derivation="hmac", digest_method=hashlib.sha256
        )

    def sign(self, clip_id: str, asset: Asset, expires_at: datetime, *, download: bool = False) -> str:
        """Return `/outputs/…?expires=…&signature=…` for one file of a clip, good until *expires_at*."""
        expires = int(expires_at.timestamp())
        signature = self._signer.get_signature(_canonical(clip_id, asset, expires, download)).decode()
        query: dict[str, str | int] = {"expires": expires, "signature": signature}
        if download:
            query["dl"] = 1
        return f"{path_of(clip_id, asset)}?{urlencode(query)}"

    def sign_watch(self, clip_id: str, expires_at: datetime) -> WatchLink:
        """Return the link to the page that shows a clip, good until *expires_at*."""
        signature = self._signer.get_signature(
            _canonical_watch(clip_id, int(expires_at.timestamp()))
        ).decode()
        return WatchLink(clip_id, expires_at, signature)

    def verify(self, clip_id: str, asset: Asset, query: Sequence[tuple[str, str]], now: datetime) -> ClipLink:
        """Check a link: syntax, then signature, then expiry.

        Args:
            clip_id: From the path, unchecked.
            asset: Which file the path names.
            query: All query parameters in order, so that duplicates are seen.
            now: Aware UTC time.

        Raises:
            ClipUrlMalformedError: Not the form that we sign.
            ClipUrlInvalidError: Signature absent or not ours.
            ClipUrlExpiredError: Ours, but too late.
        """
        parameters = _parse(clip_id, query)
        download = "dl" in parameters
        signed = _canonical(clip_id, asset, int(parameters["expires"]), download)
        return ClipLink(clip_id, asset, self._expiry(parameters, signed, now, MAX_TTL), download)

    def verify_watch(self, clip_id: str, query: Sequence[tuple[str, str]], now: datetime) -> WatchLink:
        """Check a link of the page that shows a clip: syntax, then signature, then expiry.

        Raises:
            ClipUrlMalformedError, ClipUrlInvalidError, ClipUrlExpiredError: See `verify`.
        """
        parameters = _parse(clip_id, query)
        signed = _canonical_watch(clip_id, int(parameters["expires"]))
        return WatchLink(
            clip_id, self._expiry(parameters, signed, now, MAX_WATCH_TTL), parameters["signature"]
        )

    def _expiry(
        self, parameters: Mapping[str, str], signed: bytes, now: datetime, max_ttl: timedelta
    ) -> datetime:
        if not self._is_ours(signed, parameters["signature"]):
            raise ClipUrlInvalidError(
                "the signature does not match this URL; read the job again for a fresh one"
            )
        expires = int(parameters["expires"])
        if expires > int((now + max_ttl).timestamp()):
            raise ClipUrlInvalidError("the URL expires further ahead than this service ever signs")
        expires_at = datetime.fromtimestamp(expires, tz=now.tzinfo)
        if now >= expires_at:
            raise ClipUrlExpiredError(expires_at)
        return expires_at

    def _is_ours(self, value: bytes, signature: str) -> bool:
        # base64url of 32 bytes leaves two spare bits in its last character: only one spelling is ours.
        canonical = base64_encode(base64_decode(signature)).decode()
        return canonical == signature and self._signer.verify_signature(value, signature)


def path_of(clip_id: str, asset: Asset) -> str:
    """Return the unsigned path of one file of a clip."""
    return f"/outputs/{clip_id}" if asset is Asset.VIDEO else f"/outputs/{clip_id}/poster"


def _canonical(clip_id: str, asset: Asset, expires: int, download: bool) -> bytes:
    disposition = "attachment" if download else "inline"
    return "\n".join(("v1", "read", clip_id, asset, str(expires), disposition)).encode()


def _canonical_watch(clip_id: str, expires: int) -> bytes:
    return "\n".join(("v1", "watch", clip_id, str(expires))).encode()


def _parse(clip_id: str, query: Sequence[tuple[str, str]]) -> Mapping[str, str]:
    if not is_clip_id(clip_id):
        raise ClipUrlMalformedError("the clip id is not of the form c_ and 32 hex digits")
    # What is not signed is ignored: sites append keys of their own, such as `fbclid`.
    signed = [(name, value) for name, value in query if name in _SIGNED]
    parameters = dict(signed)
    if len(parameters) != len(signed):
        raise ClipUrlMalformedError("a query parameter is given twice")
    if query and query[-1][0] in _SIGNED:
        parameters[query[-1][0]] = _ADDED_BY_CHAT.sub("", query[-1][1])
    if not parameters.get("signature") or not parameters.get("expires"):
        raise ClipUrlInvalidError("the URL is not signed; read the job (GET /jobs/{job_id}) for a signed one")
    if not _EXPIRES.match(parameters["expires"]):
        raise ClipUrlMalformedError("expires is not a plain Unix time in seconds")
    if not _SIGNATURE.match(parameters["signature"]):
        raise ClipUrlMalformedError("the signature is not 43 base64url characters")
    if parameters.get("dl", "1") != "1":
        raise ClipUrlMalformedError("dl can only be 1")
    return parameters
