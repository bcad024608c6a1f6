"""`/outputs/{clip_id}`: the files of a clip behind a signed link, for players.

The checks come in this order: syntax, signature, expiry, existence. So a caller without a
signature cannot learn which ids exist. Starlette's `FileResponse` answers 206, multipart,
If-Range and HEAD. This module adds the ETag, 304, and `Range` as RFC 9110 defines it (section
14.2: an invalid header is ignored, ranges past the end are dropped, 416 only when none is left).
A HEAD with `Range` is answered as its GET, as S3 and nginx do, because players probe with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any, Final, TypeVar

import anyio
import structlog
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse

from anime_studio.core.errors import ClipGoneError, ClipUrlError
from anime_studio.core.jobs import Asset, ClipFile
from anime_studio.core.signing import ClipLink
from anime_studio.core.studio import Studio
from anime_studio.web.accept import prefers_html
from anime_studio.web.deps import MetricsDep, StudioDep
from anime_studio.web.metrics import Metrics
from anime_studio.web.middleware.request_context import context_of
from anime_studio.web.openapi_extras import header, problems, problems_or_pages
from anime_studio.web.problems import answer, status_problem
from anime_studio.web.ranges import RangeNotSatisfiableError, matches_etag, satisfiable
from anime_studio.web.routes.dead_link import dead_link_page
from common.schemas import CLIP_ID_PATTERN

router = APIRouter(tags=["clips"])

LONGEST_CACHE_S = 3600

# The signature is the permission, whichever page plays the clip: any origin may read.
_CORS: Final = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "Accept-Ranges, Content-Length, Content-Range, ETag, X-Request-ID",
    "Cross-Origin-Resource-Policy": "cross-origin",
}
_PREFLIGHT: Final = {
    **_CORS,
    "Access-Control-Allow-Methods": "GET, HEAD",
    "Access-Control-Allow-Headers": "Range, If-Range, If-None-Match, X-Request-ID, traceparent",
    "Access-Control-Max-Age": "86400",
}


class _ClipResponse(FileResponse):
    """Each chunk costs a turn through the thread pool; Starlette's own chunks have 64 KiB."""

    chunk_size = 256 * 1024


Endpoint = TypeVar("Endpoint", bound=Callable[..., Coroutine[Any, Any, Response]])

ClipId = Annotated[
    str,
    PathParameter(
        description="The clip's public id.",
        examples=["c_" + "0" * 32],
        json_schema_extra={"pattern": CLIP_ID_PATTERN},
    ),
]


async def _describe_query(
    expires: Annotated[
        str | None,
        Query(
            description="Unix time in seconds at which the link dies.",
            examples=["1795464900"],
            json_schema_extra={"pattern": "^[1-9][0-9]{9,10}$"},
        ),
    ] = None,
    signature: Annotated[
        str | None,
        Query(
            description="43 base64url characters.",
            examples=["A" * 42 + "E"],
            json_schema_extra={"pattern": "^[A-Za-z0-9_-]{43}$"},
        ),
    ] = None,
    dl: Annotated[
        str | None,
        Query(
            description="1 to download as a file; signed too.",
            examples=["1"],
            json_schema_extra={"pattern": "^1$"},
        ),
    ] = None,
) -> None:
    """Describe the query in the OpenAPI document; the signer reads the raw query, to see duplicates."""


def _file_answers(asset: Asset) -> dict[int | str, dict[str, Any]]:
    binary = {asset.content_type: {"schema": {"type": "string", "format": "binary"}}}
    headers = {
        "Accept-Ranges": header("Always `bytes`.", None, "bytes"),
        "ETag": header("The file's SHA-256, in quotes.", None, f'"{"0" * 64}"'),
        "Content-Disposition": header("`inline`, or `attachment` with dl=1."),
        "Cache-Control": header("Private, and never beyond the link's expiry.", None, "private, max-age=900"),
    }
    content_range = {"Content-Range": header("Which bytes.", None, "bytes 0-1023/1482113")}
    return {
        200: {"description": "The whole file", "content": binary, "headers": headers},
        206: {
            "description": "The bytes asked for; several ranges as multipart/byteranges",
            "content": binary | {"multipart/byteranges": {"schema": {"type": "string", "format": "binary"}}},
            "headers": headers | content_range,
        },
        304: {"description": "The caller's copy is still right"},
        **problems(416, 500, 503),
        **(problems_or_pages if asset is Asset.VIDEO else problems)(400, 403, 410),
    }


async def _preflight() -> Response:
    # The same for every id, signed or not.
    return Response(status_code=204, headers=_PREFLIGHT)


def _serves(path: str, asset: Asset) -> Callable[[Endpoint], Endpoint]:
    """Serve GET and HEAD of *path*; FastAPI adds no HEAD by itself."""

    def register(endpoint: Endpoint) -> Endpoint:
        for method in (router.get, router.head):
            method(
                path,
                response_class=Response,
                responses=_file_answers(asset),
                dependencies=[Depends(_describe_query)],
            )(endpoint)
        router.options(path, include_in_schema=False)(_preflight)
        return endpoint

    return register


@_serves("/outputs/{clip_id}", Asset.VIDEO)
async def read_clip(clip_id: ClipId, request: Request, studio: StudioDep, metrics: MetricsDep) -> Response:
    """Return the MP4 behind a signed link."""
    return await _serve(request, studio, metrics, clip_id, Asset.VIDEO)


@_serves("/outputs/{clip_id}/poster", Asset.POSTER)
async def read_poster(clip_id: ClipId, request: Request, studio: StudioDep, metrics: MetricsDep) -> Response:
    """Return the JPEG still behind a signed link."""
    return await _serve(request, studio, metrics, clip_id, Asset.POSTER)


async def _serve(request: Request, studio: Studio, metrics: Metrics, clip_id: str, asset: Asset) -> Response:
    try:
        return await serve_clip(request, studio, metrics, clip_id, asset, request.query_params.multi_items())
    except ClipUrlError as error:
        problem = error.problem(context_of(request).request_id)
        if asset is Asset.VIDEO and prefers_html(request.headers.get("accept", "")):
            return dead_link_page(request, problem)
        return answer(request, problem, _CORS)


async def serve_clip(
    request: Request,
    studio: Studio,
    metrics: Metrics,
    clip_id: str,
    asset: Asset,
    link_query: Sequence[tuple[str, str]],
) -> Response:
    """Return one file of a clip, or the part of it that *request* asks for.

    Args:
        request: Its `Range`, `If-Range` and `If-None-Match` are honoured.
        studio: Opens the clip.
        metrics: Counts the result.
        clip_id: From the path, unchecked.
        asset: Which file.
        link_query: All query parameters of the signed link, in order.

    Raises:
        ClipUrlError: The link does not open it, or the clip is gone.
    """
    try:
        link, file = await studio.open_clip(clip_id, asset, link_query)
        remaining_s = int((link.expires_at - studio.clock.now()).total_seconds())
        structlog.contextvars.bind_contextvars(clip_id=clip_id, expires_in_s=remaining_s)
        result, response = await _answer_with(file, link, request, _headers(file, remaining_s))
    except ClipUrlError as error:
        metrics.count_output(error.code)
        raise
    metrics.count_output(result)
    return response


async def _answer_with(
    file: ClipFile, link: ClipLink, request: Request, headers: dict[str, str]
) -> tuple[str, Response]:
    if matches_etag(request.headers.get("if-none-match", ""), headers["ETag"]):
        return "not_modified", Response(status_code=304, headers=headers)
    stat = await _stat(file, link)
    try:
        has_range = _drop_unsatisfiable_ranges(request, file.size_bytes, headers["ETag"])
    except RangeNotSatisfiableError:
        detail = f"the file has {file.size_bytes} bytes; none of the ranges asked for lies within it"
        problem = status_problem(416, detail, context_of(request).request_id)
        return problem.code, answer(request, problem, _CORS | {"Content-Range": f"bytes */{file.size_bytes}"})
    return "part" if has_range else "whole", _ClipResponse(
        file.path,
        headers=headers,
        media_type=file.content_type,
        filename=link.clip_id + link.asset.suffix,
        stat_result=stat,
        content_disposition_type="attachment" if link.download else "inline",
    )


async def _stat(file: ClipFile, link: ClipLink) -> os.stat_result:
    try:
        stat = await anyio.Path(file.path).stat()
    except FileNotFoundError:
        stat = None
    if stat is None or stat.st_size != file.size_bytes:
        raise ClipGoneError(
            f"clip {link.clip_id} was swept while it was being opened; submit the prompt again"
        )
    return stat


def _drop_unsatisfiable_ranges(request: Request, size_bytes: int, etag: str) -> bool:
    """Rewrite `Range` in the scope, where `FileResponse` reads it; return whether a range is left."""
    value = request.headers.get("range")
    if value is None:
        return False
    # If-Range takes a strong ETag only: our Last-Modified is the time of one container's copy.
    fresh = request.headers.get("if-range", etag) == etag
    ranges = satisfiable(value, size_bytes) if fresh else None
    headers = [header for header in request.scope["headers"] if header[0] != b"range"]
    request.scope["headers"] = headers if ranges is None else [*headers, (b"range", ranges.encode())]
    return ranges is not None


def _headers(file: ClipFile, remaining_s: int) -> dict[str, str]:
    # A clip's bytes never change, so a copy stays valid; but it must not outlive its link.
    max_age_s = max(0, min(remaining_s, LONGEST_CACHE_S))
    return _CORS | {"ETag": f'"{file.sha256}"', "Cache-Control": f"private, max-age={max_age_s}, immutable"}
