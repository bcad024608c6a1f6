"""OpenAI's video vocabulary, and how our jobs and errors read in it.

Source of names and values: the `openai` Python package 3.54, `types/video*.py` and
`resources/videos.py`. Times are whole Unix seconds and `seconds` is a string there.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from anime_studio.core.recipes import Recipe
from common.schemas import CHANNEL_PATTERN, SEED_MAX, GenerateRequest, Job, JobState, Problem, Resolution

Status = Literal["queued", "in_progress", "completed", "failed"]

_STATUS: dict[JobState, Status] = {
    JobState.QUEUED: "queued",
    JobState.RUNNING: "in_progress",
    JobState.SUCCEEDED: "completed",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "failed",
}


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class VideoRequest(BaseModel):
    """`POST /v1/videos`, as form data or JSON; the fields after `size` are ours."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    prompt: Annotated[str, Field(description="What to draw, in English.", examples=["a cat on a roof"])]
    model: Annotated[
        str | None,
        Field(description="The deployment's recipe, or absent.", examples=["fastwan-3step"]),
    ] = None
    seconds: Annotated[
        str | None,
        Field(
            pattern=r"^[0-9]{1,2}(\.[0-9]{1,3})?$",
            description="Clip length as a string; the recipe bounds it. Frames follow from it here.",
            examples=["5"],
        ),
    ] = None
    size: Annotated[
        str | None,
        Field(description="Width x height: 832x480, or 480x832 where drawn.", examples=["832x480"]),
    ] = None
    seed: Annotated[int | None, Field(ge=0, le=SEED_MAX, description="Noise seed.", examples=[7])] = None
    negative_prompt: Annotated[str | None, Field(description="What to avoid.", examples=["blurry"])] = None
    num_inference_steps: Annotated[
        int | None, Field(ge=1, le=100, description="Denoise steps.", examples=[3])
    ] = None
    guidance_scale: Annotated[float | None, Field(ge=1, le=20, description="Guidance.", examples=[5])] = None
    channel: Annotated[
        str | None,
        Field(pattern=CHANNEL_PATTERN, description="Overlay channel.", examples=["tuesday-show-9f2c41d7"]),
    ] = None


class VideoError(_Answer):
    """Why a video failed."""

    code: Annotated[str, Field(description="Stable name.", examples=["worker_died"])]
    message: Annotated[str, Field(description="What happened and what to do.")]


class Video(_Answer):
    """A job in OpenAI's words; `id` is the job id, its owner's capability."""

    id: Annotated[str, Field(description="The job id.", examples=["j_" + "0" * 32])]
    object: Literal["video"] = "video"
    model: Annotated[str, Field(description="The recipe.", examples=["fastwan-3step"])]
    status: Annotated[Status, Field(description="A cancelled job is `failed`.", examples=["completed"])]
    progress: Annotated[int, Field(ge=0, le=100, description="Percent by time.", examples=[61])]
    created_at: Annotated[int, Field(description="Unix seconds.", examples=[1795464000])]
    completed_at: Annotated[int | None, Field(description="Unix seconds.", examples=[None])] = None
    expires_at: Annotated[
        int | None, Field(description="Null: a clip is kept as long as the deployment says.", examples=[None])
    ] = None
    prompt: Annotated[str, Field(description="As sent.", examples=["a cat on a roof"])]
    seconds: Annotated[str, Field(description="As asked for.", examples=["5"])]
    size: Annotated[str, Field(description="Width x height.", examples=["832x480"])]
    error: Annotated[VideoError | None, Field(description="Present when failed.")] = None
    remixed_from_video_id: Annotated[str | None, Field(description="Always null.", examples=[None])] = None


class VideoList(_Answer):
    """Videos of the ids that the caller named."""

    object: Literal["list"] = "list"
    data: Annotated[list[Video], Field(description="Sorted by creation.")]
    first_id: Annotated[str | None, Field(description="Id of the first.", examples=[None])]
    last_id: Annotated[str | None, Field(description="Id of the last; give it as `after`.", examples=[None])]
    has_more: Annotated[bool, Field(description="Whether more follow.", examples=[False])]


class VideoDeleted(_Answer):
    """What became of a deletion."""

    id: Annotated[str, Field(description="The job id.", examples=["j_" + "0" * 32])]
    object: Literal["video.deleted"] = "video.deleted"
    deleted: Annotated[bool, Field(description="False: it still runs; delete it again once it stopped.")]


class ErrorBody(_Answer):
    """What went wrong."""

    message: Annotated[str, Field(description="What happened and what to do.")]
    type: Annotated[str, Field(description="OpenAI's class of error.", examples=["invalid_request_error"])]
    param: Annotated[str | None, Field(description="The field at fault.", examples=["size"])] = None
    code: Annotated[str, Field(description="Our stable code.", examples=["queue_full"])]


class ErrorEnvelope(_Answer):
    """OpenAI's error body."""

    error: ErrorBody


def video_of(job: Job) -> Video:
    """Return *job* in OpenAI's words."""
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


def request_of(video: VideoRequest, recipe: Recipe) -> GenerateRequest:
    """Return what *video* asks for in our words.

    Raises:
        ValueError: The model or size is not one of this deployment; the message says which are.
        pydantic.ValidationError: A field is out of bounds.
    """
    if video.model not in (None, recipe.name):
        raise ValueError(f"model: this deployment draws with {recipe.name!r}; send that or leave it out")
    fields = video.model_dump(exclude_none=True, exclude={"model", "seconds", "size"})
    if video.seconds is not None:
        fields["duration"] = float(video.seconds)
    if video.size is not None:
        fields["resolution"] = _resolution(video.size, recipe)
    return GenerateRequest.model_validate(fields | {"source": "openai"})


def envelope(problem: Problem, param: str | None = None) -> ErrorEnvelope:
    """Return *problem* as OpenAI's error body."""
    kind = "invalid_request_error" if problem.status < 500 else "server_error"
    if problem.status == 429:
        kind = "rate_limit_error"
    return ErrorEnvelope(error=ErrorBody(message=problem.detail, type=kind, param=param, code=problem.code))


def _resolution(size: str, recipe: Recipe) -> Resolution:
    by_size = {f"{width}x{height}": name for name in recipe.native_sizes for width, height in [name.size]}
    if size not in by_size:
        raise ValueError(f"size: {size!r} is not drawn by {recipe.name}; it draws: {', '.join(by_size)}")
    return by_size[size]
