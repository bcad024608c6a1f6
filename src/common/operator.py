"""What the operator of a show sees and does; only with the operator's key, because it holds job ids and prompts."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from common.schemas import (
    CLIP_ID_PATTERN,
    JOB_ID_PATTERN,
    REQUESTED_BY_MAX_CHARS,
    JobState,
    Progress,
    Readiness,
    Stage,
)
from common.show import Spend


class OperatorJob(BaseModel):
    """A job as the operator sees it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    job_id: Annotated[str, Field(pattern=JOB_ID_PATTERN, description="Capability.")]
    clip_id: Annotated[str, Field(pattern=CLIP_ID_PATTERN, description="The clip's id, also before its end.")]
    request_id: Annotated[str, Field(description="The request that made it.", examples=["r_5d0c"])]
    state: Annotated[JobState, Field(description="Where it is in its life.", examples=["running"])]
    stage: Annotated[Stage | None, Field(description="What the worker does.", examples=["denoise"])] = None
    progress: Annotated[Progress, Field(description="How far it is.")] = Progress()
    prompt: Annotated[str, Field(description="The prompt as sent.", examples=["a cat on a roof"])]
    requested_by: Annotated[str | None, Field(description="Name that the caller gave.", examples=["mio"])] = (
        None
    )
    source: Annotated[str | None, Field(description="Which program asked.", examples=["bot"])] = None
    channel: Annotated[str | None, Field(description="The overlay's channel.", examples=[None])] = None
    hidden: Annotated[bool, Field(description="Its clip is kept off its channel.", examples=[False])] = False
    age_s: Annotated[float, Field(ge=0, description="Seconds since it was accepted.", examples=[3.2])]
    usd: Annotated[
        float | None,
        Field(ge=0, description="What it has cost so far; null before it starts.", examples=[0.002]),
    ]
    url: Annotated[
        str | None, Field(description="Signed URL of the MP4, held and hidden ones too.", examples=[None])
    ] = None
    error_code: Annotated[str | None, Field(description="Why there is no clip.", examples=[None])] = None


class ChannelView(BaseModel):
    """A channel that an overlay or another viewer has asked for lately."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    channel: Annotated[str, Field(description="The channel's name.", examples=["tuesday-show-9f2c41d7"])]
    viewers: Annotated[int, Field(ge=0, description="Who asked in the last 30 s.", examples=[1])]
    asked_s: Annotated[float, Field(ge=0, description="Seconds since somebody asked.", examples=[1.4])]
    silent: Annotated[bool, Field(description="Nobody asks any more.", examples=[False])]


class OperatorView(BaseModel):
    """The show as its operator sees it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    now: Annotated[datetime, Field(description="The server's clock, UTC.", examples=["2026-11-23T20:00:05Z"])]
    paused: Annotated[bool, Field(description="New orders are refused.", examples=[False])]
    readiness: Annotated[Readiness, Field(description="Worker and backlog; `progress_age_s` is its silence.")]
    spend: Annotated[Spend, Field(description="Today and this month against the budgets.")]
    jobs: Annotated[
        list[OperatorJob], Field(description="Running, then waiting, then the last 20 that ended.")
    ]
    channels: Annotated[
        list[ChannelView], Field(description="Those that were asked for at this process in the last hour.")
    ]
    expired_links: Annotated[
        int, Field(ge=0, description="Requests for clips by expired links, at this process.", examples=[0])
    ]


class OperatorVerb(StrEnum):
    """What the operator can do."""

    PAUSE = "pause"
    RESUME = "resume"
    CLEAR = "clear"
    CANCEL = "cancel"
    HIDE = "hide"
    SHOW = "show"


class OperatorAction(BaseModel):
    """One act of the operator."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    action: Annotated[
        OperatorVerb,
        Field(
            strict=False,
            description="`pause` and `resume` new orders, `clear` the queue, `cancel` one job (`job_id`) or all of one "
            "requester (`requested_by`), `hide` a clip from its channel or `show` it again (`clip_id`).",
            examples=["pause"],
        ),
    ]
    job_id: Annotated[
        str | None, Field(pattern=JOB_ID_PATTERN, description="For `cancel`.", examples=[None])
    ] = None
    requested_by: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=REQUESTED_BY_MAX_CHARS,
            description="For `cancel`: all open jobs of this name.",
        ),
    ] = None
    clip_id: Annotated[
        str | None, Field(pattern=CLIP_ID_PATTERN, description="For `hide` and `show`.", examples=[None])
    ] = None

    @model_validator(mode="after")
    def _names_its_object(self) -> Self:
        given = {name for name in ("job_id", "requested_by", "clip_id") if getattr(self, name) is not None}
        wanted: dict[OperatorVerb, list[set[str]]] = {
            OperatorVerb.CANCEL: [{"job_id"}, {"requested_by"}],
            OperatorVerb.HIDE: [{"clip_id"}],
            OperatorVerb.SHOW: [{"clip_id"}],
        }
        allowed = wanted.get(self.action, [set()])
        if given not in allowed:
            words = " or ".join(", ".join(sorted(names)) or "nothing" for names in allowed)
            raise ValueError(f"{self.action} takes {words} beside it")
        return self


class OperatorAnswer(OperatorView):
    """The show after an act."""

    changed: Annotated[int, Field(ge=0, description="Jobs or clips that the act concerned.", examples=[1])]
