"""`/watch/{clip_id}`: a page for people that shows one clip for as long as the clip is kept.

The page is written here, so it works without JavaScript, and chat programs read its OpenGraph and player-card tags. Its
links to video and poster are watch links too: each leads to a media link that is signed at that moment. So nothing on the
page or in an embed dies before the clip, and media links stay short-lived (ADR 23). Any site may frame the page: it has
nothing to press that changes anything.

Sources: https://ogp.me (`og:`), X's "Player card" (`twitter:`; the player fills its frame).
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from string import Template
from typing import Final

import structlog
from fastapi import APIRouter, Request, Response

from anime_studio.core.errors import ClipUrlError
from anime_studio.core.jobs import Asset, JobRecord, StoredClip
from anime_studio.core.plain_text import title_of
from anime_studio.core.signing import WatchLink
from anime_studio.web.accept import prefers_html
from anime_studio.web.deps import BaseUrl, MetricsDep, OptionsDep, StudioDep
from anime_studio.web.metrics import Metrics
from anime_studio.web.middleware.request_context import context_of
from anime_studio.web.problems import answer
from anime_studio.web.routes.dead_link import dead_link_page
from anime_studio.web.routes.pages import page_text

router = APIRouter(include_in_schema=False)

TITLE_MAX_CHARS: Final = 80
UNTITLED: Final = "An anime clip"
POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "style-src 'self'",
        "img-src 'self'",
        "media-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors *",
    )
)


@router.get("/watch/{clip_id}")
async def watch_page(
    clip_id: str,
    request: Request,
    studio: StudioDep,
    options: OptionsDep,
    metrics: MetricsDep,
    base_url: BaseUrl,
) -> Response:
    """Return the page that shows a clip."""
    try:
        link, clip, job = await studio.watch(clip_id, request.query_params.multi_items())
    except ClipUrlError as error:
        return _refuse(request, metrics, error)
    structlog.contextvars.bind_contextvars(clip_id=clip_id)
    metrics.count_output("page")
    page = _page(link, clip, job if options.watch_words else None, base_url)
    return Response(page, headers={"Content-Security-Policy": POLICY}, media_type="text/html")


@router.get("/watch/{clip_id}/video")
async def watch_video(
    clip_id: str, request: Request, studio: StudioDep, metrics: MetricsDep, dl: str | None = None
) -> Response:
    """Lead to the clip's MP4, by a media link that is signed now."""
    return await _lead(request, studio, metrics, clip_id, Asset.VIDEO, download=dl == "1")


@router.get("/watch/{clip_id}/poster")
async def watch_poster(clip_id: str, request: Request, studio: StudioDep, metrics: MetricsDep) -> Response:
    """Lead to the clip's still, by a media link that is signed now."""
    return await _lead(request, studio, metrics, clip_id, Asset.POSTER)


async def _lead(
    request: Request,
    studio: StudioDep,
    metrics: Metrics,
    clip_id: str,
    asset: Asset,
    *,
    download: bool = False,
) -> Response:
    query = request.query_params.multi_items()
    try:
        path = await studio.watch_file(clip_id, asset, query, download=download)
    except ClipUrlError as error:
        return _refuse(request, metrics, error)
    # Relative, so right behind any proxy and of the page's own origin. The media link counts itself.
    return Response(status_code=302, headers={"Location": f"../..{path}", "Cache-Control": "no-store"})


def _refuse(request: Request, metrics: Metrics, error: ClipUrlError) -> Response:
    metrics.count_output(error.code)
    problem = error.problem(context_of(request).request_id)
    if prefers_html(request.headers.get("accept", "")):
        return dead_link_page(request, problem)
    return answer(request, problem)


def _page(link: WatchLink, clip: StoredClip, job: JobRecord | None, base_url: str) -> str:
    prompt = job.spec.prompt if job else ""
    title = title_of(prompt, TITLE_MAX_CHARS) or UNTITLED
    who = title_of(job.requested_by or "", TITLE_MAX_CHARS) if job else ""
    length, for_whom = f"{clip.num_frames / clip.fps:.1f} s", who and f" · for {who}"
    video, poster = (link.path(asset).removeprefix("/watch/") for asset in Asset)
    values = {
        "title": title,
        "prompt": title_of(prompt, len(prompt)) if title.endswith("…") else "",
        "length": length,
        "for_whom": for_whom,
        "width": clip.width,
        "height": clip.height,
        "video": video,
        "poster": poster,
        "download": f"{video}&dl=1",
        "file_name": f"{clip.clip_id}{Asset.VIDEO.suffix}",
    }
    safe = {name: escape(str(value)) for name, value in values.items()}
    tags = _tags(link, clip, title, length + for_whom, base_url)
    return Template(page_text("watch.html")).substitute(safe, tags=_meta(tags))


def _tags(
    link: WatchLink, clip: StoredClip, title: str, description: str, base_url: str
) -> Iterable[tuple[str, object]]:
    page, (video, poster) = base_url + link.path(), (base_url + link.path(asset) for asset in Asset)
    yield "og:site_name", "anime-studio"
    yield "og:type", "video.other"
    yield "og:title", title
    yield "og:description", description
    yield "og:url", page
    yield "og:image", poster
    yield "og:image:type", Asset.POSTER.content_type
    yield "og:image:width", clip.width
    yield "og:image:height", clip.height
    yield "og:image:alt", title
    yield "og:video", video
    if video.startswith("https:"):
        yield "og:video:secure_url", video
    yield "og:video:type", Asset.VIDEO.content_type
    yield "og:video:width", clip.width
    yield "og:video:height", clip.height
    yield "twitter:card", "player"
    yield "twitter:title", title
    yield "twitter:description", description
    yield "twitter:image", poster
    yield "twitter:player", page
    yield "twitter:player:width", clip.width
    yield "twitter:player:height", clip.height
    yield "twitter:player:stream", video
    yield "twitter:player:stream:content_type", Asset.VIDEO.content_type


def _meta(tags: Iterable[tuple[str, object]]) -> str:
    # `property` is OpenGraph's attribute (RDFa); X's cards use `name`.
    return "\n  ".join(
        f'<meta {"name" if tag.startswith("twitter:") else "property"}="{tag}" content="{escape(str(value))}">'
        for tag, value in tags
    )
