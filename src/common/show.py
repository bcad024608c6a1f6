"""What the people who run a show read: a channel's clips, the recipe's bounds, the operator's summary.

Part of the contract beside `common.schemas`; pydantic and the standard library only. Nothing in
here holds a job id, which is its owner's capability: a channel name opens clips, not jobs, and the
summary is open to everyone who can reach the service.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from common.schemas import (
    CLIP_ID_PATTERN,
    Clip,
    Cost,
    JobState,
    Progress,
    Readiness,
    Resolution,
    SignalKind,
    Stage,
    StartKind,
    Timings,
)


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class ChannelClip(_Answer):
    """One finished clip of a channel, with fresh links."""

    clip: Annotated[Clip, Field(description="The clip and its signed links.")]
    sequence: Annotated[
        int,
        Field(ge=0, description="Place in the order of ends; give it as `after` to go on.", examples=[1041]),
    ]
    prompt: Annotated[str, Field(description="The prompt as sent.", examples=["a cat on a roof"])]
    requested_by: Annotated[
        str | None, Field(description="Name that the caller gave for who asked.", examples=["mio"])
    ] = None
    created_at: Annotated[datetime, Field(description="Asked for, UTC.", examples=["2026-11-23T20:00:00Z"])]
    finished_at: Annotated[datetime, Field(description="Ready, UTC.", examples=["2026-11-23T20:00:04Z"])]


class UpcomingClip(_Answer):
    """A job of a channel that waits or is being drawn."""

    prompt: Annotated[str, Field(description="The prompt as sent.", examples=["a cat on a roof"])]
    state: Annotated[JobState, Field(description="queued or running.", examples=["running"])]
    stage: Annotated[Stage | None, Field(description="What the worker does.", examples=["denoise"])] = None
    progress: Annotated[Progress, Field(description="How far it is.")] = Progress()
    requested_by: Annotated[
        str | None, Field(description="Name that the caller gave for who asked.", examples=["mio"])
    ] = None
    created_at: Annotated[datetime, Field(description="Asked for, UTC.", examples=["2026-11-23T20:00:00Z"])]


class ChannelClips(_Answer):
    """A channel's finished clips, oldest first. A channel nobody used is an empty list."""

    clips: Annotated[list[ChannelClip], Field(description="At most 20; those that were swept are left out.")]
    next_after: Annotated[
        int,
        Field(
            ge=0,
            description="Give it as `after` next time. Lower than the last one only if the records were replaced.",
            examples=[1041],
        ),
    ]
    more: Annotated[bool, Field(description="More clips wait: ask again at once.", examples=[False])]
    upcoming: Annotated[
        list[UpcomingClip],
        Field(description="The channel's next clips, at most 20: first the one being drawn."),
    ] = []
    hidden: Annotated[
        list[Annotated[str, Field(pattern=CLIP_ID_PATTERN)]],
        Field(description="Clips that were hidden, at most the last 100: show them no more.", examples=[[]]),
    ] = []
    now: Annotated[datetime, Field(description="The server's clock, UTC.", examples=["2026-11-23T20:00:05Z"])]


class Size(_Answer):
    """One resolution that the recipe draws."""

    resolution: Annotated[Resolution, Field(description="Name for requests.", examples=["480p"])]
    width: Annotated[int, Field(description="Pixels of the clip.", examples=[832])]
    height: Annotated[int, Field(description="Pixels of the clip.", examples=[480])]


class Bounds(_Answer):
    """What a number may be."""

    minimum: Annotated[float, Field(description="Smallest accepted value.", examples=[1.0])]
    maximum: Annotated[float, Field(description="Largest accepted value.", examples=[5.0])]
    default: Annotated[float, Field(description="Used when absent.", examples=[5.0])]


class RecipeCard(_Answer):
    """What this deployment draws and within which bounds: all a form needs."""

    name: Annotated[str, Field(description="The recipe.", examples=["fastwan-3step"])]
    summary: Annotated[str, Field(description="One line for people.", examples=["Wan 2.1 1.3B in 3 steps"])]
    model: Annotated[str, Field(description="Where the checkpoint is from.", examples=["FastVideo/…"])]
    model_revision: Annotated[str, Field(description="Its revision.", examples=["0fad780a534b"])]
    license: Annotated[str, Field(description="Its licence.", examples=["Apache-2.0"])]
    sizes: Annotated[list[Size], Field(description="Resolutions it draws.")]
    duration_s: Annotated[Bounds, Field(description="Clip length in seconds.")]
    num_inference_steps: Annotated[Bounds, Field(description="Denoise steps.")]
    guidance_scale: Annotated[
        Bounds | None, Field(description="Guidance; null when the recipe takes none.", examples=[None])
    ]
    examples: Annotated[list[str], Field(description="Prompts that suit it.")]
    world: Annotated[
        str | None,
        Field(
            description="All that it can show, in one line, if that is a small world; null when it knows any words.",
            examples=[None],
        ),
    ] = None
    paths: Annotated[
        tuple[str, ...],
        Field(
            description="Paths that the recipe asks for on any device, as a job's `paths` names them.",
            examples=[["sparse_attention=0.8"]],
        ),
    ] = ()


class Percentiles(_Answer):
    """How long something took; the nearest-rank percentiles of what was measured."""

    count: Annotated[int, Field(ge=0, description="Jobs that went through it.", examples=[20])]
    p50_s: Annotated[float, Field(ge=0, description="Seconds, median.", examples=[1.2])]
    p95_s: Annotated[float, Field(ge=0, description="Seconds.", examples=[3.4])]


class Spend(_Answer):
    """What the window's jobs cost, against the budget for one clip."""

    usd: Annotated[float, Field(ge=0, description="Sum of the receipts.", examples=[0.04])]
    usd_per_clip: Annotated[
        float | None,
        Field(ge=0, description="Mean over finished clips, failures included.", examples=[0.004]),
    ] = None
    budget_usd_per_clip: Annotated[
        float | None, Field(ge=0, description="The deployment's budget, if set.", examples=[0.02])
    ] = None
    budget_used: Annotated[
        float | None, Field(ge=0, description="usd_per_clip / budget; over 1 is too much.", examples=[0.2])
    ] = None
    today_usd: Annotated[
        float, Field(ge=0, description="Receipts and known idling since midnight, UTC.", examples=[0.4])
    ] = 0.0
    month_usd: Annotated[
        float, Field(ge=0, description="The same since the first of the month.", examples=[3.1])
    ] = 0.0
    budget_usd_per_day: Annotated[float | None, Field(ge=0, description="If set.", examples=[2.0])] = None
    budget_usd_per_month: Annotated[float | None, Field(ge=0, description="If set.", examples=[20.0])] = None


class RecentError(_Answer):
    """A job that ended without a clip, by its request id."""

    at: Annotated[datetime, Field(description="When, UTC.", examples=["2026-11-23T20:00:04Z"])]
    request_id: Annotated[str, Field(description="Name it in a report or look it up in the log.")]
    code: Annotated[str, Field(description="Stable name.", examples=["worker_died"])]
    detail: Annotated[str, Field(description="What happened and what to do.")]


class FinishedJob(_Answer):
    """One line of the night, for charts: no prompt, no job id."""

    request_id: Annotated[str, Field(description="The request that made it.", examples=["r_5d0c"])]
    created_at: Annotated[datetime, Field(description="UTC.", examples=["2026-11-23T20:00:00Z"])]
    finished_at: Annotated[datetime, Field(description="UTC.", examples=["2026-11-23T20:00:04Z"])]
    state: Annotated[JobState, Field(description="How it ended.", examples=["succeeded"])]
    source: Annotated[str | None, Field(description="Who asked.", examples=["bot"])] = None
    start_kind: Annotated[StartKind | None, Field(description="How the worker was ready.")] = None
    resolution: Annotated[
        Resolution | None, Field(description="Size asked for; null from an older server.", examples=["1080p"])
    ] = None
    timings: Annotated[Timings, Field(description="Seconds by stage.")] = Timings()
    cost: Annotated[Cost | None, Field(description="The receipt.")] = None
    error_code: Annotated[str | None, Field(description="Why there is no clip.", examples=[None])] = None


class ShowStatus(_Answer):
    """The operator's summary of the last hour, or of the window asked for."""

    now: Annotated[datetime, Field(description="The server's clock, UTC.", examples=["2026-11-23T20:00:05Z"])]
    window_s: Annotated[float, Field(gt=0, description="Seconds looked back.", examples=[3600])]
    version: Annotated[str, Field(description="Version of the service.", examples=["0.1.0"])]
    recipe: Annotated[str, Field(description="The deployment's recipe.", examples=["fastwan-3step"])]
    paths: Annotated[
        tuple[str, ...],
        Field(
            description="Fast paths that the newest clip was rendered with, by name; empty on a CPU.",
            examples=[["fused_denoiser", "attention=int8"]],
        ),
    ] = ()
    decoder: Annotated[
        str, Field(description="What makes frames of latents: full, light or tiny.", examples=["full"])
    ] = "full"
    model_revision: Annotated[
        str | None,
        Field(
            description="Revision of the weights of the newest clip; null without a clip.",
            examples=["0fad780a534b"],
        ),
    ] = None
    weights_note: Annotated[
        str | None,
        Field(
            description="What to know about those weights: newer than the snapshot, or older than those that are named.",
            examples=[None],
        ),
    ] = None
    uptime_s: Annotated[float, Field(ge=0, description="Seconds since this process began.", examples=[12.5])]
    readiness: Annotated[Readiness, Field(description="Worker, backlog and time to the next clip.")]
    finished: Annotated[int, Field(ge=0, description="Jobs that ended in the window.", examples=[21])]
    succeeded: Annotated[int, Field(ge=0, description="… with a clip.", examples=[20])]
    failed: Annotated[int, Field(ge=0, description="… by a fault or a missed deadline.", examples=[1])]
    cancelled: Annotated[int, Field(ge=0, description="… because the owner stopped them.", examples=[0])]
    success_rate: Annotated[
        float | None, Field(ge=0, le=1, description="succeeded / (succeeded + failed); null without either.")
    ]
    truncated: Annotated[
        bool, Field(description="More jobs ended in the window than were counted (newest are).")
    ] = False
    cold_starts: Annotated[
        int, Field(ge=0, description="Jobs whose worker was not warm: restored, cold or recovered.")
    ]
    starts: Annotated[dict[StartKind, int], Field(description="Jobs by start kind.", examples=[{"warm": 20}])]
    stages: Annotated[
        dict[str, Percentiles],
        Field(
            description="queue, start, text, denoise, decode, upscale, store and total of the clips of one size, the "
            "size that most clips have; absent when never measured."
        ),
    ]
    stages_by_size: Annotated[
        dict[Resolution, dict[str, Percentiles]],
        Field(
            description="The same for each size, those upright counted with those lying; the size of most clips first.",
            examples=[{}],
        ),
    ] = {}
    spend: Annotated[Spend, Field(description="Receipts against the budget.")]
    signals: Annotated[
        dict[SignalKind, int],
        Field(description="What clients reported in the window, to this process.", examples=[{}]),
    ]
    fallbacks: Annotated[int, Field(ge=0, description="Times an overlay fell back.", examples=[0])]
    errors: Annotated[list[RecentError], Field(description="The last five, newest first.")]
    jobs: Annotated[
        list[FinishedJob], Field(description="Newest first; as many as `jobs` asked for.", examples=[[]])
    ] = []
