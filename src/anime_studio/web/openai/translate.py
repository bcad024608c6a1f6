"""Translates OpenAI's video API: a form or JSON body to a `GenerateRequest`, a `Job` to a `Video`."""

from __future__ import annotations

from typing import Any, Final

from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from anime_studio.core.clip import duration_bounds
from anime_studio.core.errors import InvalidRequestError
from anime_studio.core.recipes import Recipe
from anime_studio.web.deps import media_type_of
from anime_studio.web.openai.schemas import Status, Video, VideoError, VideoRequest
from common.schemas import GenerateRequest, Job, JobState, Resolution

_STATUS: Final[dict[JobState, Status]] = {
    JobState.QUEUED: "queued",
    JobState.RUNNING: "in_progress",
    JobState.SUCCEEDED: "completed",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "failed",
}


OPENAI_SECONDS: Final = (4.0, 8.0, 12.0)
"""`VideoSeconds` of the `openai` package 3.54: the only values that its types allow."""


async def read_request(request: Request, recipe: Recipe, *, round_seconds: bool) -> GenerateRequest:
    """Return the body of *request*, a form or JSON, as a request for a clip of *recipe*.

    Args:
        request: Not yet read.
        recipe: The deployment's.
        round_seconds: Whether one of `OPENAI_SECONDS` becomes the nearest length that the recipe has.

    Raises:
        InvalidRequestError: The body is not well formed, holds an image, or names another model or size.
        RequestValidationError: A field is wrong or out of bounds.
        HTTPException: 415.
    """
    fields = await _read_fields(request)
    try:
        return _request_of(VideoRequest.model_validate(fields), recipe, round_seconds=round_seconds)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error


def video_of(job: Job) -> Video:
    """Return *job* as OpenAI's `Video`."""
    succeeded = job.state is JobState.SUCCEEDED
    return Video(
        id=job.job_id,
        model=job.request.recipe,
        status=_STATUS[job.state],
        progress=100 if succeeded else min(99, round(job.progress.fraction * 100)),
        created_at=int(job.created_at.timestamp()),
        completed_at=int(job.finished_at.timestamp()) if succeeded and job.finished_at else None,
        prompt=job.request.prompt,
        seconds=f"{job.request.duration:g}",
        size=f"{job.request.width}x{job.request.height}",
        error=None if job.error is None else VideoError(code=job.error.code, message=job.error.detail),
    )


async def _read_fields(request: Request) -> dict[str, Any]:
    media_type = media_type_of(request)
    if media_type == "application/json":
        try:
            body = await request.json()
        except (ValueError, RecursionError) as error:  # the latter: nested too deeply for Python's parser
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


def _request_of(video: VideoRequest, recipe: Recipe, *, round_seconds: bool) -> GenerateRequest:
    if video.model not in (None, recipe.name):
        raise InvalidRequestError(
            f"model: this deployment draws with {recipe.name!r}; send that or leave it out"
        )
    fields = video.model_dump(exclude_none=True, exclude={"model", "seconds", "size"})
    if video.seconds is not None:
        fields["duration"] = _duration(float(video.seconds), recipe, round_seconds=round_seconds)
    if video.size is not None:
        fields["resolution"] = _resolution(video.size, recipe)
    return GenerateRequest.model_validate(fields | {"source": "openai"})


def _duration(seconds: float, recipe: Recipe, *, round_seconds: bool) -> float:
    """Return the length to draw: *seconds* wherever `POST /generate` takes them, or what OpenAI's values become."""
    above, longest = duration_bounds(recipe)
    if above < seconds <= longest:
        return seconds
    if round_seconds and seconds in OPENAI_SECONDS:
        return min(max(seconds, recipe.min_frames / recipe.fps), longest)
    within = [value for value in OPENAI_SECONDS if above < value <= longest]
    named = f"; of OpenAI's values: {', '.join(f'{value:g}' for value in within)}" if within else ""
    raise InvalidRequestError(
        f"seconds: {recipe.name} takes more than {above:g} s and at most {longest:g} s{named}; "
        "ANIME_STUDIO_ROUND_SECONDS=true takes the nearest for 4, 8 and 12"
    )


def _resolution(size: str, recipe: Recipe) -> Resolution:
    by_size = {f"{width}x{height}": name for name in recipe.native_sizes for width, height in [name.size]}
    if size not in by_size:
        raise InvalidRequestError(
            f"size: {size!r} is not drawn by {recipe.name}; it draws: {', '.join(by_size)}"
        )
    return by_size[size]
