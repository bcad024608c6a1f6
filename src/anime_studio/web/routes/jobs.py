"""`/jobs/{job_id}`: read, follow and cancel a job. Whoever knows its id owns it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Final

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import JSONResponse
from sse_starlette import EventSourceResponse, ServerSentEvent

from anime_studio.core.errors import AnimeStudioError
from anime_studio.core.studio import Studio
from anime_studio.web.deps import BaseUrl, JobId, OptionsDep, StudioDep
from anime_studio.web.openapi_extras import RETRY_AFTER, problems
from anime_studio.web.routes.generate import poll_after_s
from common.schemas import Job

router = APIRouter(tags=["jobs"])

FROM_THE_START = -1
_EVENT: Final = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "id": {"type": "string", "pattern": "^[0-9]+$", "description": "The job's version."},
        "event": {"type": "string", "enum": ["job", "problem"]},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {
                "oneOf": [{"$ref": "#/components/schemas/Job"}, {"$ref": "#/components/schemas/Problem"}]
            },
        },
    },
}
_LONGEST_VERSION_DIGITS = 9


@router.get(
    "/jobs/{job_id}",
    summary="Read a job",
    response_model=Job,
    responses={
        200: {"description": "The job as it stands", "headers": {"Retry-After": RETRY_AFTER}},
        **problems(404, 500, 503),
    },
)
async def read_job(job_id: JobId, studio: StudioDep, base_url: BaseUrl) -> Response:
    """Return the job as it stands; each read of a finished job carries a freshly signed link."""
    return _answer(await studio.present(await studio.get(job_id), base_url))


@router.delete(
    "/jobs/{job_id}",
    summary="Cancel a job",
    response_model=Job,
    responses={
        200: {"description": "The job has ended: cancelled now, or already final and left as it was"},
        202: {"description": "The job will stop at its next denoise step", "model": Job},
        **problems(404, 500, 503),
    },
)
async def cancel_job(job_id: JobId, studio: StudioDep, base_url: BaseUrl) -> Response:
    """End a queued job at once; ask a running one to stop at its next step. Safe to repeat."""
    job = await studio.present(await studio.cancel(job_id), base_url)
    return _answer(job, unfinished_status=202)


@router.post(
    "/jobs/{job_id}/show",
    summary="Show a held clip",
    response_model=Job,
    responses={
        200: {"description": "The clip is on its channel, or will be when the job has ended"},
        **problems(404, 500, 503),
    },
)
async def show_clip(job_id: JobId, studio: StudioDep, base_url: BaseUrl) -> Response:
    """Put a clip that was held (`hold`) on its channel, as the newest there. Safe to repeat.

    What the operator hid stays hidden.
    """
    return _answer(await studio.present(await studio.show_clip(job_id), base_url))


@router.get(
    "/jobs/{job_id}/events",
    summary="Follow a job",
    response_class=Response,
    responses={
        200: {
            "description": "Server-sent events: `id` is the job's version, `event` is `job` and `data` the whole job "
            "as JSON. Every state, stage and step that was kept is told once, in order; the stream ends after the "
            "job's end. An event `problem` carries a problem; reconnect to go on.",
            "content": {"text/event-stream": {"schema": _EVENT}},
        },
        204: {"description": "The end was told already: there is nothing to reconnect for"},
        **problems(404, 422, 500, 503),
    },
)
async def follow_job(
    job_id: JobId,
    studio: StudioDep,
    base_url: BaseUrl,
    options: OptionsDep,
    after: Annotated[
        int,
        Query(
            ge=FROM_THE_START,
            le=10**_LONGEST_VERSION_DIGITS,
            description="Only versions above this one. `Last-Event-ID` comes first.",
            examples=[3],
        ),
    ] = FROM_THE_START,
    last_event_id: Annotated[
        str | None,
        Header(
            description="Set by browsers when they reconnect; anything but a version is ignored.",
            examples=["3"],
        ),
    ] = None,
) -> Response:
    """Stream the job's changes as they come, resumable by `Last-Event-ID` or `after`."""
    after = _version(last_event_id, default=after)
    job = await studio.get(job_id)
    if job.state.final and job.version <= after:
        # A browser reconnects when a stream ends; only 204 makes it stop (WHATWG HTML, 9.2.3).
        return Response(status_code=204)
    return EventSourceResponse(
        _events(studio, job_id, after, base_url),
        ping=options.heartbeat_s,
        ping_message_factory=lambda: ServerSentEvent(comment="still here"),
        shutdown_grace_period=5,  # a stopping server ends `follow`; the stream then ends in good order
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _events(studio: Studio, job_id: str, after: int, base_url: str) -> AsyncIterator[ServerSentEvent]:
    try:
        async for record in studio.follow(job_id, after):
            job = await studio.present(record, base_url)
            yield ServerSentEvent(job.model_dump_json(), event="job", id=str(job.version))
    except AnimeStudioError as error:
        yield ServerSentEvent(error.problem().model_dump_json(exclude_none=True), event="problem")


def _version(last_event_id: str | None, *, default: int) -> int:
    text = last_event_id or ""
    fits = text.isascii() and text.isdigit() and len(text) <= _LONGEST_VERSION_DIGITS
    return int(text) if fits else default


def _answer(job: Job, *, unfinished_status: int = 200) -> Response:
    if job.state.final:
        return JSONResponse(job.model_dump(mode="json"))
    return JSONResponse(
        job.model_dump(mode="json"), unfinished_status, {"Retry-After": str(poll_after_s(job))}
    )
