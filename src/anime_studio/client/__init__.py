"""The studio from the outside: what a chat bot imports.

    with StudioClient("http://127.0.0.1:8017") as studio:
        job = studio.generate("a cat on a roof at dusk", on_progress=print)
        studio.download(job, "clip.mp4")

`AsyncStudioClient` is the same with `await`. Knows the contract (`common`) and httpx; loads
neither torch nor FastAPI nor modal. It has the contract's types under its own name too. `flows` holds the calls as generators;
`sync` and `aio` run them.
"""

from __future__ import annotations

from anime_studio.client.aio import AsyncStudioClient
from anime_studio.client.connection import DEFAULT_URL
from anime_studio.client.errors import (
    ClientSettingsError,
    ClipGoneError,
    DamagedDownloadError,
    DeadlineExceededError,
    DeadlineUnmeetableError,
    DownloadError,
    InvalidRequestError,
    JobCancelledError,
    JobEndedError,
    JobFailedError,
    JobNotFoundError,
    JobTimeoutError,
    LinkExpiredError,
    QueueFullError,
    RefusedError,
    StudioError,
    UnavailableError,
    UnreachableError,
)
from anime_studio.client.sync import StudioClient
from common.schemas import (
    ClientSignal,
    ClientSignals,
    Clip,
    ClipSpec,
    Cost,
    GenerateRequest,
    Health,
    Job,
    JobState,
    Links,
    Note,
    Problem,
    Progress,
    Readiness,
    Resolution,
    SignalKind,
    SignalsAccepted,
    Stage,
    StartKind,
    Timings,
)
from common.show import (
    Bounds,
    ChannelClip,
    ChannelClips,
    FinishedJob,
    Percentiles,
    RecentError,
    RecipeCard,
    ShowStatus,
    Size,
    Spend,
    UpcomingClip,
)

__all__ = [
    "DEFAULT_URL",
    "AsyncStudioClient",
    "Bounds",
    "ChannelClip",
    "ChannelClips",
    "ClientSettingsError",
    "ClientSignal",
    "ClientSignals",
    "Clip",
    "ClipGoneError",
    "ClipSpec",
    "Cost",
    "DamagedDownloadError",
    "DeadlineExceededError",
    "DeadlineUnmeetableError",
    "DownloadError",
    "FinishedJob",
    "GenerateRequest",
    "Health",
    "InvalidRequestError",
    "Job",
    "JobCancelledError",
    "JobEndedError",
    "JobFailedError",
    "JobNotFoundError",
    "JobState",
    "JobTimeoutError",
    "LinkExpiredError",
    "Links",
    "Note",
    "Percentiles",
    "Problem",
    "Progress",
    "QueueFullError",
    "Readiness",
    "RecentError",
    "RecipeCard",
    "RefusedError",
    "Resolution",
    "ShowStatus",
    "SignalKind",
    "SignalsAccepted",
    "Size",
    "Spend",
    "Stage",
    "StartKind",
    "StudioClient",
    "StudioError",
    "Timings",
    "UnavailableError",
    "UnreachableError",
    "UpcomingClip",
]
