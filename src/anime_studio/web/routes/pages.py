"""The pages and their files: plain HTML, CSS and ES modules, served by the app itself.

Every page has a Content-Security-Policy that allows nothing inline and nothing from other origins.
The files are few and small, so they are read once and served from memory with a strong ETag.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fastapi import APIRouter, HTTPException, Request, Response

router = APIRouter(include_in_schema=False)

_STATIC: Final = Path(__file__).parents[1] / "static"
_MEDIA_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".webp": "image/webp",
    ".mp4": "video/mp4",
}


def content_security_policy(*, media: str = "") -> str:
    """Return a page's policy; *media* is one more origin that clips may come from."""
    return "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self'",
            f"media-src 'self' {media}".rstrip(),
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'self'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        )
    )


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    media_type: str
    etag: str


def page_response(request: Request, name: str, *, policy: str | None = None, vary: str = "") -> Response:
    """Return one of the HTML pages, or 304 when the browser has it."""
    headers = {"Content-Security-Policy": policy or content_security_policy()}
    return _file_response(request, name, headers | ({"Vary": vary} if vary else {}))


def page_text(name: str) -> str:
    """Return one of the HTML pages as text, for a route that fills it in."""
    return _files()[name].content.decode()


@router.api_route("/", methods=["GET", "HEAD"])
async def studio_page(request: Request) -> Response:
    """Return the studio page."""
    return page_response(request, "index.html")


@router.api_route("/static/{name}", methods=["GET", "HEAD"])
async def static_file(request: Request, name: str) -> Response:
    """Return a style sheet, a module or a picture of the pages."""
    if name.endswith(".html"):
        raise HTTPException(404)  # pages have addresses of their own, with their policy
    return _file_response(request, name, {})


def _file_response(request: Request, name: str, headers: dict[str, str]) -> Response:
    file = _files().get(name)
    if file is None:
        raise HTTPException(404)
    headers |= {"ETag": file.etag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.media_type)


@functools.cache
def _files() -> dict[str, _File]:
    # The folder is listed, never joined with a name from a request.
    return {path.name: _read(path) for path in _STATIC.iterdir() if path.suffix in _MEDIA_TYPES}


def _read(path: Path) -> _File:
    content = path.read_bytes()
    return _File(content, _MEDIA_TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')
