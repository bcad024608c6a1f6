"""The contract: every shape that crosses the wire, for bot, OBS and endpoint alike.

Pydantic and the standard library only, so that a chat bot can import it without
torch, FastAPI or modal. One shape of a job everywhere: the answer of
`POST /generate`, of `GET /jobs/{job_id}`, each event, the client and `--json`.

Field names follow diffusers (`num_inference_steps`, `guidance_scale`); units are in
the names (`_s` seconds, `_bytes`, `_usd`). Requests refuse unknown fields; answers
ignore them, so that an older client reads a newer server.
"""

from __future__ import annotations

import re
import unicodedata
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

PROMPT_MAX_CHARS = 2_000
REQUESTED_BY_MAX_CHARS = 64
SEED_MAX = 2**32 - 1
"""Largest seed: fits a JavaScript number and every generator's 64-bit seed."""

JOB_ID_PATTERN = r"^j_[0-9a-f]{32}$"
CLIP_ID_PATTERN = r"^c_[0-9a-f]{32}$"
CHANNEL_PATTERN = r"^[A-Za-z0-9_-]{16,64}$"


class _Request(BaseModel):
    # Strict: `true` is no seed and "5" is no duration, as the published schema says.
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True, strict=True)


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Resolution(StrEnum):
    """Named sizes. Wan 2.1 1.3B was trained at 480p (Wan2.1 README, `wan/configs`); 1080p needs an upscaler."""

    P480 = "480p"
    P480_PORTRAIT = "480p-portrait"
    P1080 = "1080p"
    P1080_PORTRAIT = "1080p-portrait"

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return _SIZES[self]

    @property
    def native(self) -> Resolution:
        """The resolution whose native size the model draws at: itself, or 480p where an upscaler does the rest."""
        return _NATIVE.get(self, self)

    @property
    def landscape(self) -> Resolution:
        """The same size lying down: as many pixels, and so as much work."""
        return _LANDSCAPE.get(self, self)


_SIZES: Final = {
    Resolution.P480: (832, 480),
    Resolution.P480_PORTRAIT: (480, 832),
    Resolution.P1080: (1920, 1080),
    Resolution.P1080_PORTRAIT: (1080, 1920),
}
_NATIVE: Final = {
    Resolution.P1080: Resolution.P480,
    Resolution.P1080_PORTRAIT: Resolution.P480_PORTRAIT,
}
_LANDSCAPE: Final = {
    Resolution.P480_PORTRAIT: Resolution.P480,
    Resolution.P1080_PORTRAIT: Resolution.P1080,
}


class JobState(StrEnum):
    """Where a job is in its life; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether the job can still change."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class Stage(StrEnum):
    """What a running job is doing, in this order."""

    STARTING = "starting"
    TEXT = "text"
    DENOISE = "denoise"
    DECODE = "decode"
    STORE = "store"


class StartKind(StrEnum):
    """How the worker that drew the clip came to be ready."""

    WARM = "warm"
    RESTORED = "restored"
    COLD = "cold"
    RECOVERED = "recovered"


def _refuse_control_characters(text: str) -> str:
    for character in text:
        if unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t":
            raise ValueError(f"control character U+{ord(character):04X} is not allowed")
    return text


_HIDDEN: Final = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u180e\u200b\u200c\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufeff\uffa0\U000e0000-\U000e0fff]"
)
"""Characters that show nothing or turn the text beside them (Unicode 16, UAX 9); the joiner inside emoji stays."""


def _display_name(name: str) -> str | None:
    """Return *name* in one form and on one line, without hidden characters; None if nothing is left."""
    shown = _HIDDEN.sub("", unicodedata.normalize("NFC", _refuse_control_characters(name)))
    return " ".join(shown.split()) or None


class GenerateRequest(_Request):
    """A prompt and how to draw it: the body of `POST /generate`."""

    prompt: Annotated[
        str,
        Field(
            min_length=1,
            max_length=PROMPT_MAX_CHARS,
            description="What to draw, in English. 1–2,000 characters after trimming.",
            examples=["a girl with pink twintails waving on a beach at sunset"],
        ),
    ]
    negative_prompt: Annotated[
        str | None,
        Field(
            max_length=PROMPT_MAX_CHARS,
            description="What to avoid. Only recipes that use guidance accept it.",
            examples=["blurry, text"],
        ),
    ] = None
    duration: Annotated[
        float,
        Field(
            gt=0,
            le=60,
            allow_inf_nan=False,
            description="Clip length in seconds; the recipe bounds it. "
            "The clip is the smallest legal frame count (4n + 1 at 16 fps) that covers it.",
            examples=[5.0],
        ),
    ] = 5.0
    resolution: Annotated[
        Resolution,
        Field(
            strict=False,
            description="Named size: 480p is 832x480, 1080p is 1920x1080; -portrait turns them upright. 1080p is 480p "
            "made larger, with rows cropped: `GET /recipe` says whether the deployment has it.",
            examples=["480p"],
        ),
    ] = Resolution.P480
    seed: Annotated[
        int | None,
        Field(
            ge=0,
            le=SEED_MAX,
            description="Noise seed; absent means one is drawn. 0 is a valid seed. Always echoed.",
            examples=[7],
        ),
    ] = None
    num_inference_steps: Annotated[
        int | None, Field(ge=1, le=100, description="Denoise steps; absent means the recipe's.", examples=[3])
    ] = None
    guidance_scale: Annotated[
        float | None,
        Field(
            ge=1,
            le=20,
            allow_inf_nan=False,
            description="Classifier-free guidance; absent means the recipe's, 1 means none.",
            examples=[5.0],
        ),
    ] = None
    deadline_s: Annotated[
        float | None,
        Field(
            gt=0,
            le=86_400,
            allow_inf_nan=False,
            description="Seconds from now within which the clip is still wanted. "
            "Refused at once when it cannot be met, dropped when it passes.",
            examples=[90.0],
        ),
    ] = None
    channel: Annotated[
        str | None,
        Field(
            pattern=CHANNEL_PATTERN,
            description="Overlay channel that plays the finished clip; an unguessable name is its capability.",
            examples=["tuesday-show-9f2c41d7"],
        ),
    ] = None
    hold: Annotated[
        bool,
        Field(
            description="Keep the finished clip off its channel until `POST /jobs/{job_id}/show`.",
            examples=[False],
        ),
    ] = False
    requested_by: Annotated[
        str | None,
        Field(
            max_length=REQUESTED_BY_MAX_CHARS,
            description="Name of the person who asks, to show with the clip. It proves nothing about anyone.",
            examples=["mio"],
        ),
    ] = None
    source: Annotated[
        str | None,
        Field(
            pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$",
            description="Which program asks, for telemetry: bot, obs, manual, …",
            examples=["bot"],
        ),
    ] = None
    queue_depth: Annotated[
        int | None,
        Field(ge=0, le=1_000_000, description="Requests waiting at the caller, for telemetry.", examples=[2]),
    ] = None
    fallback: Annotated[
        bool | None,
        Field(description="Whether the caller is showing a fallback now, for telemetry.", examples=[False]),
    ] = None

    _clean_prompt = field_validator("prompt", "negative_prompt")(
        lambda text: None if text is None else _refuse_control_characters(text)
    )
    _clean_name = field_validator("requested_by")(lambda name: None if name is None else _display_name(name))


class ClipSpec(_Answer):
    """Exactly what is drawn: the request made definite under the deployment's recipe."""

    prompt: Annotated[str, Field(description="The prompt as sent.", examples=["a cat on a roof"])]
    prompt_used: Annotated[
        str,
        Field(
            description="The prompt the model saw, after composing.", examples=["a cat on a roof, anime …"]
        ),
    ]
    negative_prompt: Annotated[
        str | None, Field(description="The negative prompt the model saw.", examples=[None])
    ] = None
    seed: Annotated[int, Field(description="Noise seed.", examples=[7])]
    duration: Annotated[float, Field(description="Seconds asked for.", examples=[5.0])]
    resolution: Annotated[Resolution, Field(description="Named size asked for.", examples=["480p"])]
    width: Annotated[int, Field(description="Clip width in pixels.", examples=[832])]
    height: Annotated[int, Field(description="Clip height in pixels.", examples=[480])]
    native_width: Annotated[
        int,
        Field(description="Width the model draws at, before it is made as wide as `width`.", examples=[832]),
    ]
    native_height: Annotated[
        int,
        Field(
            description="Height the model draws at, before it is made as high as `height`.", examples=[480]
        ),
    ]
    num_frames: Annotated[int, Field(description="Frames in the clip, 4n + 1.", examples=[81])]
    fps: Annotated[int, Field(description="Frames per second.", examples=[16])]
    num_inference_steps: Annotated[int, Field(description="Denoise steps.", examples=[3])]
    guidance_scale: Annotated[
        float | None, Field(description="Guidance; null means none.", examples=[None])
    ] = None
    recipe: Annotated[str, Field(description="Name of the recipe.", examples=["fastwan-3step"])]
    model_revision: Annotated[
        str, Field(description="Revision of the checkpoint.", examples=["0fad780a534b"])
    ]
    decoder: Annotated[
        str, Field(description="What makes frames of latents: full, light or tiny.", examples=["full"])
    ] = "full"


class Progress(_Answer):
    """How far a job is, in real denoise steps."""

    step: Annotated[int, Field(ge=0, description="Denoise steps done.", examples=[2])] = 0
    total_steps: Annotated[int, Field(ge=0, description="Denoise steps in all.", examples=[3])] = 0
    fraction: Annotated[
        float, Field(ge=0, le=1, description="Share of the whole job done, by time.", examples=[0.61])
    ] = 0.0
    eta_s: Annotated[
        float | None,
        Field(ge=0, description="Seconds until the clip is expected; null when unknown.", examples=[4.2]),
    ] = None


class Clip(_Answer):
    """A finished clip and where to fetch it for a short while."""

    clip_id: Annotated[
        str, Field(pattern=CLIP_ID_PATTERN, description="Public name.", examples=["c_" + "0" * 32])
    ]
    url: Annotated[
        str, Field(description="Signed URL of the MP4.", examples=["https://studio.example/outputs/c_…"])
    ]
    poster_url: Annotated[
        str,
        Field(
            description="Signed URL of a JPEG still.", examples=["https://studio.example/outputs/c_…/poster"]
        ),
    ]
    watch_url: Annotated[
        str | None,
        Field(
            description="Signed URL of a page that shows the clip, good as long as the clip is kept; null from an older "
            "server.",
            examples=["https://studio.example/watch/c_…"],
        ),
    ] = None
    expires_at: Annotated[
        datetime,
        Field(description="When `url` and `poster_url` expire, UTC.", examples=["2026-11-23T20:15:00Z"]),
    ]
    expires_in_s: Annotated[
        int, Field(ge=0, description="Seconds until then, by the server's clock.", examples=[900])
    ]
    content_type: Annotated[str, Field(description="Media type of `url`.", examples=["video/mp4"])] = (
        "video/mp4"
    )
    size_bytes: Annotated[int, Field(ge=1, description="Size of the MP4.", examples=[1482113])]
    sha256: Annotated[
        str,
        Field(pattern=r"^[0-9a-f]{64}$", description="Hash of the MP4; also its ETag.", examples=["0" * 64]),
    ]
    width: Annotated[int, Field(description="Pixels.", examples=[832])]
    height: Annotated[int, Field(description="Pixels.", examples=[480])]
    num_frames: Annotated[int, Field(description="Frames in the file.", examples=[81])]
    fps: Annotated[int, Field(description="Constant frame rate.", examples=[16])]
    duration_s: Annotated[float, Field(description="num_frames / fps.", examples=[5.0625])]


class Timings(_Answer):
    """Seconds spent in each stage; null until the stage is over."""

    queue_s: Annotated[float | None, Field(ge=0, description="Waiting for a worker.", examples=[0.0])] = None
    start_s: Annotated[
        float | None, Field(ge=0, description="Making the worker ready for this job.", examples=[1.4])
    ] = None
    text_s: Annotated[float | None, Field(ge=0, description="Prompt to embeddings.", examples=[0.03])] = None
    denoise_s: Annotated[float | None, Field(ge=0, description="All denoise steps.", examples=[0.9])] = None
    decode_s: Annotated[
        float | None, Field(ge=0, description="Latents to MP4; encoding overlaps it.", examples=[0.6])
    ] = None
    upscale_s: Annotated[
        float | None,
        Field(
            ge=0,
            description="Frames to larger ones; null if the upscaler had no part in it. A job that was stopped in `decode` "
            "has them in `decode_s`.",
            examples=[0.4],
        ),
    ] = None
    store_s: Annotated[float | None, Field(ge=0, description="MP4 to durable storage.", examples=[0.1])] = (
        None
    )
    total_s: Annotated[
        float | None, Field(ge=0, description="From acceptance to the final state.", examples=[3.0])
    ] = None

    @property
    def busy_s(self) -> float:
        """Seconds from the prompt to the stored clip, by a worker that is ready."""
        stages = (self.text_s, self.denoise_s, self.decode_s, self.upscale_s, self.store_s)
        return sum(seconds for seconds in stages if seconds is not None)


class Cost(_Answer):
    """What the clip cost: measured seconds times a dated rate table."""

    usd: Annotated[float, Field(ge=0, description="US dollars.", examples=[0.0021])]
    basis: Annotated[
        str,
        Field(
            description="Seconds, machine and rates behind it.", examples=["2.9 s x L4 + 2 cores + 16 GiB"]
        ),
    ]


class Problem(_Answer):
    """What went wrong: RFC 9457 problem details, and the `error` of a failed job."""

    type: Annotated[
        str, Field(description="URI reference naming the kind.", examples=["/problems/queue_full"])
    ]
    title: Annotated[str, Field(description="The kind, for people.", examples=["The queue is full"])]
    status: Annotated[int, Field(ge=400, le=599, description="HTTP status code.", examples=[429])]
    detail: Annotated[
        str,
        Field(description="What happened, to which job, and what to do.", examples=["32 jobs are waiting"]),
    ]
    code: Annotated[
        str, Field(pattern=r"^[a-z][a-z0-9_]*$", description="Stable name.", examples=["queue_full"])
    ]
    retryable: Annotated[bool, Field(description="Whether the same call may succeed later.", examples=[True])]
    request_id: Annotated[
        str | None, Field(description="The request to name in a report.", examples=["r_5d0c"])
    ] = None
    retry_after_s: Annotated[float | None, Field(ge=0, description="When to try again.", examples=[5.0])] = (
        None
    )


class Note(_Answer):
    """Something to know about a clip that is not a fault: where it differs from what was asked for, and why."""

    code: Annotated[
        str, Field(pattern=r"^[a-z][a-z0-9_]*$", description="Stable name.", examples=["unknown_words"])
    ]
    detail: Annotated[
        str,
        Field(
            description="For people.", examples=["demo does not know: roof. It makes the rest of the prompt"]
        ),
    ]


class Links(_Answer):
    """Where to go on from here."""

    self: Annotated[str, Field(description="This job.", examples=["https://studio.example/jobs/j_…"])]
    events: Annotated[
        str, Field(description="Its event stream.", examples=["https://studio.example/jobs/j_…/events"])
    ]


class Job(_Answer):
    """One request for a clip, from acceptance to its end. The job id is its owner's capability."""

    job_id: Annotated[
        str, Field(pattern=JOB_ID_PATTERN, description="Capability.", examples=["j_" + "0" * 32])
    ]
    request_id: Annotated[str, Field(description="The request that made it.", examples=["r_5d0c"])]
    state: Annotated[JobState, Field(description="Where it is in its life.", examples=["running"])]
    stage: Annotated[Stage | None, Field(description="What it is doing.", examples=["denoise"])] = None
    progress: Annotated[Progress, Field(description="How far it is.")] = Progress()
    queue_position: Annotated[
        int | None, Field(ge=0, description="Jobs ahead while queued, else null.", examples=[0])
    ] = None
    version: Annotated[
        int, Field(ge=0, description="Grows with each change; the event id of the stream.", examples=[4])
    ] = 0
    request: Annotated[ClipSpec, Field(description="What is drawn.")]
    clip: Annotated[Clip | None, Field(description="Present once succeeded and not yet swept.")] = None
    timings: Annotated[Timings, Field(description="Seconds by stage.")] = Timings()
    start_kind: Annotated[
        StartKind | None, Field(description="How the worker came to be ready.", examples=["warm"])
    ] = None
    cost: Annotated[Cost | None, Field(description="The receipt.")] = None
    error: Annotated[Problem | None, Field(description="Why it failed or was cancelled.")] = None
    requested_by: Annotated[
        str | None, Field(description="Name that the caller gave for who asked.", examples=["mio"])
    ] = None
    notes: Annotated[
        tuple[Note, ...],
        Field(
            description="Where the clip differs from what was asked for: words that the recipe does not know, …"
        ),
    ] = ()
    paths: Annotated[
        tuple[str, ...],
        Field(
            description="Fast paths that the renderer took, by name; on a CPU only what the recipe itself asks for.",
            examples=[["fused_denoiser", "attention=int8"]],
        ),
    ] = ()
    created_at: Annotated[datetime, Field(description="Accepted, UTC.", examples=["2026-11-23T20:00:00Z"])]
    started_at: Annotated[datetime | None, Field(description="Last start, UTC.", examples=[None])] = None
    finished_at: Annotated[datetime | None, Field(description="End, UTC.", examples=[None])] = None
    attempts: Annotated[
        int,
        Field(
            ge=0, description="Times that a worker took it; more than 1 after a worker died.", examples=[1]
        ),
    ] = 0
    links: Annotated[Links, Field(description="Where to go on.")]


class Health(_Answer):
    """The process answers. Never touches the engine."""

    status: Annotated[Literal["ok"], Field(description="Always ok.", examples=["ok"])] = "ok"
    version: Annotated[str, Field(description="Version of the service.", examples=["0.1.0"])]
    recipe: Annotated[str, Field(description="The deployment's recipe.", examples=["fastwan-3step"])]
    uptime_s: Annotated[float, Field(ge=0, description="Seconds since start.", examples=[12.5])]


class Readiness(_Answer):
    """Whether a worker can take work now, and if not, why and which command helps."""

    ready: Annotated[bool, Field(description="True: a job would start.", examples=[True])]
    status: Annotated[
        Literal["ready", "asleep", "starting", "unavailable"],
        Field(description="`asleep` is ready too: the next job wakes a worker.", examples=["ready"]),
    ]
    detail: Annotated[str, Field(description="For people.", examples=["one worker is idle"])]
    queued: Annotated[int, Field(ge=0, description="Jobs waiting.", examples=[0])] = 0
    running: Annotated[int, Field(ge=0, description="Jobs being drawn.", examples=[0])] = 0
    eta_s: Annotated[
        float | None,
        Field(
            ge=0,
            description="Seconds until a new job would finish, judged by clips of its size; null when unknown.",
            examples=[12.0],
        ),
    ] = None
    usd_per_clip: Annotated[
        float | None,
        Field(
            ge=0,
            description="What a new clip should cost, a wake-up apart; null when unknown.",
            examples=[0.004],
        ),
    ] = None
    wake_s: Annotated[
        float | None,
        Field(ge=0, description="Seconds that a wake-up took lately; they come on top.", examples=[1.8]),
    ] = None
    projected: Annotated[
        bool,
        Field(
            description="No clip was measured here yet: eta_s and usd_per_clip are projected from another GPU.",
            examples=[False],
        ),
    ] = False
    progress_age_s: Annotated[
        float | None,
        Field(
            ge=0, description="Seconds since the worker was last heard from; null if unknown.", examples=[0.5]
        ),
    ] = None
    problem: Annotated[Problem | None, Field(description="Why not; null when ready.")] = None
    code: Annotated[str | None, Field(description="Error code when unavailable.", examples=[None])] = None
    command: Annotated[str | None, Field(description="The command that mends it.", examples=[None])] = None


class SignalKind(StrEnum):
    """What a client can tell the operator."""

    QUEUE_DEPTH = "queue_depth"
    FALLBACK_PLAYED = "fallback_played"
    CLIP_SKIPPED = "clip_skipped"
    PLAYBACK_ERROR = "playback_error"
    URL_EXPIRED = "url_expired"
    LATENCY_OBSERVED = "latency_observed"


class ClientSignal(_Request):
    """Something a bot, overlay or page saw on its side."""

    kind: Annotated[
        SignalKind, Field(strict=False, description="What happened.", examples=["fallback_played"])
    ]
    source: Annotated[
        str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$", description="Who saw it.", examples=["obs"])
    ]
    request_id: Annotated[
        str | None, Field(max_length=128, description="The request it concerns.", examples=[None])
    ] = None
    job_id: Annotated[
        str | None, Field(pattern=JOB_ID_PATTERN, description="The job it concerns.", examples=[None])
    ] = None
    clip_id: Annotated[
        str | None, Field(pattern=CLIP_ID_PATTERN, description="The clip it concerns.", examples=[None])
    ] = None
    value: Annotated[
        float | None,
        Field(
            ge=0,
            le=1e9,
            allow_inf_nan=False,
            description="Depth for queue_depth, seconds for latency_observed.",
            examples=[3.2],
        ),
    ] = None
    detail: Annotated[
        str | None, Field(max_length=200, description="A short reason.", examples=["MEDIA_ERR_NETWORK"])
    ] = None


class ClientSignals(_Request):
    """A batch of signals: the body of `POST /telemetry/signals`."""

    signals: Annotated[list[ClientSignal], Field(min_length=1, max_length=100, description="Oldest first.")]


class SignalsAccepted(_Answer):
    """How many signals were counted."""

    accepted: Annotated[int, Field(ge=0, description="Signals counted.", examples=[1])]
