"""The bodies of `/v1/videos`: OpenAI's names and values, plus fields of our own in a request.

Source: the `openai` Python package 3.54, `types/video*.py` and `resources/videos.py`. Times are
whole Unix seconds there, and `seconds` is a string.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from common.schemas import CHANNEL_PATTERN, SEED_MAX

Status = Literal["queued", "in_progress", "completed", "failed"]


class Answer(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(extra="ignore", frozen=True)


def _text_of_number(value: Any) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:g}" if is_number else value


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
        BeforeValidator(_text_of_number),
        Field(
            pattern=r"^[0-9]{1,2}(\.[0-9]{1,4})?$",
            description="Clip length, as a string or a number; the recipe bounds it. Frames follow from it here. "
            "4, 8 and 12, the values of OpenAI's types, become the nearest legal length where the deployment allows it.",
            examples=["5"],
            json_schema_extra={"type": ["string", "number"]},
        ),
    ] = None
    size: Annotated[
        str | None,
        Field(
            description="Width x height: 832x480; where offered 480x832, 1920x1080, 1080x1920.",
            examples=["832x480"],
        ),
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


class VideoError(Answer):
    """Why a video failed."""

    code: Annotated[str, Field(description="Stable name.", examples=["worker_died"])]
    message: Annotated[str, Field(description="What happened and what to do.")]


class Video(Answer):
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


class VideoList(Answer):
    """Videos of the ids that the caller named."""

    object: Literal["list"] = "list"
    data: Annotated[list[Video], Field(description="Sorted by creation.")]
    first_id: Annotated[str | None, Field(description="Id of the first.", examples=[None])]
    last_id: Annotated[str | None, Field(description="Id of the last; give it as `after`.", examples=[None])]
    has_more: Annotated[bool, Field(description="Whether more follow.", examples=[False])]


class VideoDeleted(Answer):
    """What became of a deletion."""

    id: Annotated[str, Field(description="The job id.", examples=["j_" + "0" * 32])]
    object: Literal["video.deleted"] = "video.deleted"
    deleted: Annotated[bool, Field(description="False: it still runs; delete it again once it stopped.")]


class ModelCard(Answer):
    """A model that this deployment offers: its recipe."""

    id: Annotated[str, Field(description="The recipe's name.", examples=["fastwan-3step"])]
    object: Literal["model"] = "model"
    created: Annotated[
        int, Field(description="Unix seconds; when this server started.", examples=[1795464000])
    ]
    owned_by: Literal["anime-studio"] = "anime-studio"


class ModelList(Answer):
    """The models of this deployment: one."""

    object: Literal["list"] = "list"
    data: Annotated[list[ModelCard], Field(description="The recipe.")]


class ErrorBody(Answer):
    """What went wrong."""

    message: Annotated[str, Field(description="What happened and what to do.")]
    type: Annotated[str, Field(description="OpenAI's class of error.", examples=["invalid_request_error"])]
    param: Annotated[str | None, Field(description="The field at fault.", examples=["size"])] = None
    code: Annotated[str, Field(description="Our stable code.", examples=["queue_full"])]


class ErrorEnvelope(Answer):
    """OpenAI's error body."""

    error: ErrorBody
