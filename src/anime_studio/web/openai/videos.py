"""`/v1/videos`: the route that vLLM-Omni and SGLang speak too, for programs written against it.

OpenAI made this API and has announced its end (DeprecationWarning of the `openai` package 3.54).

A video is a job, and its id is the job id, which is its owner's capability. So no caller can list
the videos of others: the list holds the ids that the caller names, in `ids` or in `X-Video-Ids`.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal
from urllib.parse import parse_qsl, urlsplit

from fastapi import APIRouter, Depends, Header, Query, Request, Response

from anime_studio.core.errors import JobNotFoundError
from anime_studio.core.ids import is_job_id
from anime_studio.core.jobs import Asset, JobRecord
from anime_studio.core.studio import Caller, Studio
from anime_studio.web.deps import BaseUrl, JobId, MetricsDep, OptionsDep, StudioDep, refuse_other_sites
from anime_studio.web.middleware.request_context import context_of
from anime_studio.web.openai.errors import PREFIX, EnvelopeRoute, VideoNotReadyError, error_answers
from anime_studio.web.openai.schemas import Video, VideoDeleted, VideoList, VideoRequest
from anime_studio.web.openai.translate import read_request, video_of
from anime_studio.web.routes.generate import idempotency_key
from anime_studio.web.routes.outputs import serve_clip
from common.schemas import JobState

MOST_IDS: Final = 100
DELETE_WAIT_S: Final = 30.0
POLL_AFTER_MS: Final = "1000"
"""Sent as `openai-poll-after-ms`, which the package's `poll` obeys."""

router = APIRouter(prefix=f"{PREFIX}/videos", tags=["openai"], route_class=EnvelopeRoute)

_BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {
            media_type: {"schema": VideoRequest.model_json_schema()}
            for media_type in ("application/json", "multipart/form-data")
        },
    }
}


@router.post(
    "",
    summary="Create a video",
    openapi_extra=_BODY,
    responses=error_answers(400, 403, 409, 413, 415, 429, 500, 503, 507),
    dependencies=[Depends(refuse_other_sites)],
)
async def create_video(
    request: Request,
    response: Response,
    studio: StudioDep,
    options: OptionsDep,
    base_url: BaseUrl,
    key: Annotated[str | None, Depends(idempotency_key)],
) -> Video:
    """Keep a job and answer at once; multipart form, as OpenAI's packages send it, or JSON."""
    context = context_of(request)
    wanted = await read_request(request, studio.recipe, round_seconds=options.round_seconds)
    job = await studio.submit(wanted, Caller(context.request_id, context.traceparent, key))
    response.headers["openai-poll-after-ms"] = POLL_AFTER_MS
    return video_of(await studio.present(job, base_url))


@router.get("", summary="List the caller's own videos", responses=error_answers(400, 500, 503))
async def list_videos(
    studio: StudioDep,
    base_url: BaseUrl,
    ids: Annotated[
        str, Query(max_length=4000, description="Job ids, comma-separated.", examples=["j_" + "0" * 32])
    ] = "",
    x_video_ids: Annotated[
        str,
        Header(max_length=4000, description="The same, for clients that set headers once.", examples=[""]),
    ] = "",
    after: Annotated[str | None, Query(description="Id of the last one seen.", examples=[None])] = None,
    limit: Annotated[int, Query(ge=1, le=MOST_IDS, description="Most to return.", examples=[20])] = 20,
    order: Annotated[Literal["asc", "desc"], Query(description="By creation.", examples=["desc"])] = "desc",
) -> VideoList:
    """Return those of the named ids that exist; without names the list is empty, for ids are capabilities."""
    named = [name.strip() for name in f"{ids},{x_video_ids}".split(",") if name.strip()]
    found = [job for job_id in dict.fromkeys(named[:MOST_IDS]) if (job := await _find(studio, job_id))]
    found.sort(key=lambda job: (job.created_at, job.job_id), reverse=order == "desc")
    seen = [job.job_id for job in found]
    start = seen.index(after) + 1 if after in seen else 0
    page = [video_of(await studio.present(job, base_url)) for job in found[start : start + limit]]
    return VideoList(
        data=page,
        first_id=page[0].id if page else None,
        last_id=page[-1].id if page else None,
        has_more=start + limit < len(found),
    )


@router.get("/{job_id}", summary="Read a video", responses=error_answers(404, 500, 503))
async def read_video(job_id: JobId, response: Response, studio: StudioDep, base_url: BaseUrl) -> Video:
    """Return the video as it stands; one whose clip was deleted or swept is no more."""
    job = await _existing(studio, job_id)
    if not job.state.final:
        response.headers["openai-poll-after-ms"] = POLL_AFTER_MS
    return video_of(await studio.present(job, base_url))


@router.get(
    "/{job_id}/content",
    summary="Download a video",
    response_class=Response,
    responses={
        200: {
            "description": "The MP4, or the poster",
            "content": {
                kind: {"schema": {"type": "string", "format": "binary"}}
                for kind in ("video/mp4", "image/jpeg")
            },
        },
        206: {"description": "The part asked for by `Range`"},
        304: {"description": "The caller's copy is still right"},
        **error_answers(400, 404, 410, 416, 500, 503),
    },
)
async def read_content(
    job_id: JobId,
    request: Request,
    studio: StudioDep,
    metrics: MetricsDep,
    base_url: BaseUrl,
    variant: Annotated[
        Literal["video", "thumbnail"], Query(description="Which file.", examples=["video"])
    ] = "video",
) -> Response:
    """Return the MP4, or with `variant=thumbnail` the poster, with ranges as `/outputs` serves them."""
    job = await studio.present(await _existing(studio, job_id), base_url)
    if job.clip is None:
        detail = f"video {job_id} is {video_of(job).status}; it has no content" + (
            "" if job.state.final else " yet: retrieve it until it is completed"
        )
        raise VideoNotReadyError(detail)
    url, asset = (job.clip.url, Asset.VIDEO) if variant == "video" else (job.clip.poster_url, Asset.POSTER)
    return await serve_clip(request, studio, metrics, job.clip.clip_id, asset, parse_qsl(urlsplit(url).query))


@router.delete("/{job_id}", summary="Delete a video", responses=error_answers(404, 500, 503))
async def delete_video(job_id: JobId, studio: StudioDep) -> VideoDeleted:
    """Stop the job if it runs and delete its clip; the receipt stays for the operator until it is swept."""
    await _existing(studio, job_id)
    job = await studio.delete_clip(job_id, DELETE_WAIT_S)
    return VideoDeleted(id=job_id, deleted=job.state.final)


async def _find(studio: Studio, job_id: str) -> JobRecord | None:
    if not is_job_id(job_id):
        return None
    try:
        return await _existing(studio, job_id)
    except JobNotFoundError:
        return None


async def _existing(studio: Studio, job_id: str) -> JobRecord:
    """Return the job, unless its clip is gone: a completed video must have its file."""
    job = await studio.get(job_id)
    if job.state is JobState.SUCCEEDED and not await studio.has_clip(job):
        raise JobNotFoundError(f"video {job_id} was deleted or swept; create it again with the same seed")
    return job
