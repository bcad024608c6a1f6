"""`/v1/videos`: the same use cases in OpenAI's words, for programs that speak those already.

A video is a job and its id the job id, which is its owner's capability. So nobody can list what
others made: the list holds the ids that the caller names, in `ids` or in `X-Video-Ids`. Errors
come in OpenAI's envelope, with 400 where the rest of the service says 422, as its clients expect.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Final, Literal
from urllib.parse import parse_qsl, urlsplit

from fastapi import APIRouter, Depends, Header, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import ValidationError

from anime_studio.core.errors import AnimeStudioError, InvalidRequestError, JobNotFoundError
from anime_studio.core.jobs import Asset, JobRecord
from anime_studio.core.studio import Caller, Studio
from anime_studio.web.body import refuse_other_sites
from anime_studio.web.context import context_of
from anime_studio.web.deps import BaseUrl, JobId, MetricsDep, StudioDep
from anime_studio.web.generate import idempotency_key
from anime_studio.web.openai_shapes import (
    ErrorEnvelope,
    Video,
    VideoDeleted,
    VideoList,
    VideoRequest,
    envelope,
    request_of,
    video_of,
)
from anime_studio.web.outputs import serve_clip
from anime_studio.web.problems import status_problem
from common.schemas import JOB_ID_PATTERN, JobState, Problem

MOST_IDS: Final = 100
DELETE_WAIT_S: Final = 30.0
POLL_AFTER_MS: Final = "1000"
"""Sent as `openai-poll-after-ms`, which the package's `poll` obeys."""
NOT_READY: Final = "video_not_ready"

_JOB_ID: Final = re.compile(JOB_ID_PATTERN.strip("^$"))


class _OpenAIRoute(APIRoute):
    """Answers every error in OpenAI's envelope."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_in_envelope(request: Request) -> Response:
            request_id = context_of(request).request_id
            try:
                return await handle(request)
            except AnimeStudioError as error:
                return _error(request, error.problem(request_id))
            except RequestValidationError as error:
                return _invalid(request, error.errors(), request_id)
            except HTTPException as error:
                return _error(request, status_problem(error.status_code, str(error.detail), request_id))

        return handle_in_envelope


router = APIRouter(prefix="/v1/videos", tags=["openai"], route_class=_OpenAIRoute)


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    meanings = {400: "Not valid", 403: "Sent by another site's page", 404: "No such video"}
    return {
        status: {"model": ErrorEnvelope, "description": meanings.get(status, "Error")} for status in statuses
    }


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
    responses=_errors(400, 403, 409, 413, 415, 429, 500, 503, 507),
    dependencies=[Depends(refuse_other_sites)],
)
async def create_video(
    request: Request,
    response: Response,
    studio: StudioDep,
    base_url: BaseUrl,
    key: Annotated[str | None, Depends(idempotency_key)],
) -> Video:
    """Keep a job and answer at once; multipart form, as OpenAI's packages send it, or JSON."""
    context = context_of(request)
    try:
        wanted = request_of(VideoRequest.model_validate(await _fields(request)), studio.recipe)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error
    except ValueError as error:
        raise InvalidRequestError(str(error)) from error
    job = await studio.submit(wanted, Caller(context.request_id, context.traceparent, key))
    response.headers["openai-poll-after-ms"] = POLL_AFTER_MS
    return video_of(await studio.present(job, base_url))


@router.get("", summary="List the caller's own videos", responses=_errors(400, 500, 503))
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


@router.get("/{job_id}", summary="Read a video", responses=_errors(404, 500, 503))
async def read_video(job_id: JobId, response: Response, studio: StudioDep, base_url: BaseUrl) -> Video:
    """Return the video as it stands; one whose clip was deleted or swept is no more."""
    job = await _owned(studio, job_id)
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
        **_errors(400, 404, 410, 416, 500, 503),
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
    job = await studio.present(await _owned(studio, job_id), base_url)
    if job.clip is None:
        detail = f"video {job_id} is {video_of(job).status}; it has no content" + (
            "" if job.state.final else " yet: retrieve it until it is completed"
        )
        raise _NotReadyError(detail)
    url, asset = (job.clip.url, Asset.VIDEO) if variant == "video" else (job.clip.poster_url, Asset.POSTER)
    return await serve_clip(request, studio, metrics, job.clip.clip_id, asset, parse_qsl(urlsplit(url).query))


@router.delete("/{job_id}", summary="Delete a video", responses=_errors(404, 500, 503))
async def delete_video(job_id: JobId, studio: StudioDep) -> VideoDeleted:
    """Stop the job if it runs and delete its clip; the receipt stays for the operator until it is swept."""
    await _owned(studio, job_id)
    job = await studio.delete_clip(job_id, DELETE_WAIT_S)
    return VideoDeleted(id=job_id, deleted=job.state.final)


class _NotReadyError(AnimeStudioError):
    code = NOT_READY
    title = "The video has no content"
    status = 400


async def _fields(request: Request) -> dict[str, Any]:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "application/json":
        try:
            body = await request.json()
        except ValueError as error:
            raise InvalidRequestError(f"the body is not JSON: {error}") from error
        if not isinstance(body, dict):
            raise InvalidRequestError("the body must be a JSON object")
        fields = {name: value for name, value in body.items() if value is not None}
    elif media_type in ("multipart/form-data", "application/x-www-form-urlencoded"):
        async with request.form(max_files=1) as form:
            fields = dict(form)
    else:
        raise HTTPException(415, "send the body as multipart/form-data or application/json")
    if "input_reference" in fields:
        raise InvalidRequestError("input_reference: this deployment draws from text alone; leave it out")
    return fields


async def _find(studio: Studio, job_id: str) -> JobRecord | None:
    if not _JOB_ID.fullmatch(job_id):
        return None
    try:
        return await _owned(studio, job_id)
    except JobNotFoundError:
        return None


async def _owned(studio: Studio, job_id: str) -> JobRecord:
    """Return the job, unless its clip is gone: a video without a file would never download."""
    job = await studio.get(job_id)
    if job.state is JobState.SUCCEEDED and not await studio.has_clip(job):
        raise JobNotFoundError(f"video {job_id} was deleted or swept; create it again with the same seed")
    return job


def _invalid(request: Request, errors: Any, request_id: str) -> Response:
    first = errors[0]
    location = [str(part) for part in first["loc"] if part not in ("body", "query", "header")]
    param = ".".join(location) or None
    detail = f"{param}: {first['msg']}" if param else first["msg"]
    return _error(request, InvalidRequestError(detail).problem(request_id), param)


def _error(request: Request, problem: Problem, param: str | None = None) -> Response:
    request.state.error_code = problem.code  # for the log line and the refusals counted
    named = re.match(r"(model|size|seconds|input_reference): ", problem.detail)
    body = envelope(problem, param or (named[1] if named else None))
    status = 400 if problem.status == 422 else problem.status
    headers = {} if problem.retry_after_s is None else {"Retry-After": str(round(problem.retry_after_s))}
    return JSONResponse(body.model_dump(mode="json"), status, headers)
