"""`/overlay`: a Browser Source for OBS; `/channels/{channel}/clips`: what it plays.

A channel is a name that requests carry. Nobody lists channels, so an unguessable name of at
least 16 characters is its capability: it opens the channel's finished clips, never their jobs.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Final
from urllib.parse import urlsplit

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import AwareDatetime, BeforeValidator

from anime_studio.core.jobs import JobRecord
from anime_studio.core.studio import Studio
from anime_studio.web.deps import BaseUrl, StudioDep
from anime_studio.web.describe import problems
from anime_studio.web.pages import content_security_policy, page_response
from common.schemas import CHANNEL_PATTERN
from common.show import ChannelClip, ChannelClips

router = APIRouter(tags=["show"])

DEFAULT_LOOK_BACK: Final = timedelta(hours=1)
PAGE: Final = 20
"""Most records that `JobStore.channel_clips` returns at once."""
_DATE_AND_TIME: Final = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ].+", re.ASCII)
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_HOST: Final = re.compile(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?", re.ASCII)


def _refuse_bare_number(value: object) -> object:
    # pydantic would read one as Unix time, in seconds or in milliseconds by its size.
    if isinstance(value, str) and not _DATE.match(value):
        raise ValueError("give a time with its date, as 2026-11-23T20:00:00Z")
    return value


@router.get("/overlay", include_in_schema=False)
async def overlay_page(request: Request, fallback: str = "") -> Response:
    """Return the overlay; *fallback* is the address of a clip to show when nothing is ready."""
    return page_response(request, "overlay.html", policy=content_security_policy(media=_origin_of(fallback)))


@router.get(
    "/channels/{channel}/clips",
    summary="Read a channel's finished clips",
    responses=problems(422, 500, 503),
)
async def channel_clips(
    studio: StudioDep,
    base_url: BaseUrl,
    channel: Annotated[
        str,
        Path(pattern=CHANNEL_PATTERN, description="The channel's name.", examples=["tuesday-show-9f2c41d7"]),
    ],
    after: Annotated[
        Annotated[AwareDatetime, BeforeValidator(_refuse_bare_number)] | None,
        Query(
            description="Only clips that finished after this time; absent means the last hour.",
            examples=["2026-11-23T20:00:00Z"],
        ),
    ] = None,
) -> ChannelClips:
    """Return clips that finished after `after`, oldest first, each with freshly signed links.

    At most 20 at once: go on with `next_after`. A channel nobody used answers an empty list. A clip
    can be kept a moment after the time it carries, so look back a little and drop what you have
    seen (`clip.clip_id`).
    """
    now = studio.clock.now()
    records = await studio.channel_clips(channel, after or now - DEFAULT_LOOK_BACK)
    clips = [await _present(studio, record, base_url) for record in records]
    return ChannelClips(
        clips=[clip for clip in clips if clip is not None],
        next_after=records[-1].finished_at if len(records) >= PAGE else None,
        now=now,
    )


async def _present(studio: Studio, record: JobRecord, base_url: str) -> ChannelClip | None:
    job = await studio.present(record, base_url)
    if job.clip is None or job.finished_at is None:
        return None
    return ChannelClip(
        clip=job.clip, prompt=job.request.prompt, created_at=job.created_at, finished_at=job.finished_at
    )


def _origin_of(address: str) -> str:
    """Return scheme and host of *address* for the policy, or nothing when it is not plain http(s)."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return ""
    if parts.scheme in ("http", "https") and _HOST.fullmatch(parts.netloc):
        return f"{parts.scheme}://{parts.netloc}"
    return ""
