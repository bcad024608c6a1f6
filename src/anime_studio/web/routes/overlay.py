"""`/overlay`: a Browser Source for OBS; `/channels/{channel}/clips`: the clips that it plays.

A channel is a name in a request. No route lists channels, so a name of at least 16 characters
that nobody can guess is a capability: it opens the channel's finished clips, never their jobs.
"""

from __future__ import annotations

import re
from typing import Annotated, Final
from urllib.parse import urlsplit

from fastapi import APIRouter, Path, Query, Request, Response

from anime_studio.core.jobs import Ended, JobRecord
from anime_studio.core.studio import Studio
from anime_studio.web.deps import BaseUrl, StudioDep
from anime_studio.web.openapi_extras import problems
from anime_studio.web.routes.pages import content_security_policy, page_response
from common.schemas import CHANNEL_PATTERN
from common.show import ChannelClip, ChannelClips, UpcomingClip

router = APIRouter(tags=["show"])

LARGEST_SEQUENCE: Final = 2**53 - 1
"""Largest integer that a JavaScript number holds exactly."""
_HOST: Final = re.compile(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?", re.ASCII)


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
    request: Request,
    studio: StudioDep,
    base_url: BaseUrl,
    channel: Annotated[
        str,
        Path(pattern=CHANNEL_PATTERN, description="The channel's name.", examples=["tuesday-show-9f2c41d7"]),
    ],
    after: Annotated[
        int | None,
        Query(
            ge=0,
            le=LARGEST_SEQUENCE,
            description="Only clips above this sequence number; absent means the newest.",
            examples=[1041],
        ),
    ] = None,
) -> ChannelClips:
    """Return clips that ended after number `after`, oldest first, each with freshly signed links; and the next ones.

    At most 20 at once: go on with `next_after`, at once if there are `more`. A channel nobody used answers an
    empty list. A clip may come twice: drop what you have seen (`clip.clip_id`).
    """
    viewer = request.client.host if request.client is not None else ""
    request.app.state.viewers.note(channel, f"{viewer} {request.headers.get('user-agent', '')[:200]}")
    upcoming = await studio.upcoming(
        channel
    )  # first: a job that ends between the two reads is in both, not in none
    page = await studio.channel_clips(channel, after)
    clips = [await _present(studio, ended, base_url) for ended in page.clips]
    return ChannelClips(
        clips=[clip for clip in clips if clip is not None],
        next_after=page.next_after,
        more=page.more,
        upcoming=[_upcoming(job) for job in upcoming],
        hidden=list(await studio.hidden_on(channel)),
        now=studio.clock.now(),
    )


async def _present(studio: Studio, ended: Ended, base_url: str) -> ChannelClip | None:
    job = await studio.present(ended.job, base_url)
    if job.clip is None or job.finished_at is None:
        return None
    return ChannelClip(
        clip=job.clip,
        sequence=ended.sequence,
        prompt=job.request.prompt,
        requested_by=job.requested_by,
        created_at=job.created_at,
        finished_at=job.finished_at,
    )


def _upcoming(job: JobRecord) -> UpcomingClip:
    return UpcomingClip(
        prompt=job.spec.prompt,
        requested_by=job.requested_by,
        state=job.state,
        stage=job.stage,
        progress=job.progress,
        created_at=job.created_at,
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
