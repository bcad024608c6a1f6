"""The studio from the outside: what a chat bot imports.

    with StudioClient("http://127.0.0.1:8017") as studio:
        job = studio.generate("a cat on a roof at dusk", on_progress=print)
        studio.download(job, "clip.mp4")

`AsyncStudioClient` is the same with `await`. Knows the contract (`common`) and httpx; loads
neither torch nor FastAPI nor modal. `flows` holds what is said, `sync` and `aio` say it.
"""

from __future__ import annotations

from anime_studio.client.aio import AsyncStudioClient
from anime_studio.client.connection import DEFAULT_URL
from anime_studio.client.errors import (
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

__all__ = [
    "DEFAULT_URL",
    "AsyncStudioClient",
    "ClipGoneError",
    "DamagedDownloadError",
    "DeadlineExceededError",
    "DeadlineUnmeetableError",
    "DownloadError",
    "InvalidRequestError",
    "JobCancelledError",
    "JobEndedError",
    "JobFailedError",
    "JobNotFoundError",
    "JobTimeoutError",
    "LinkExpiredError",
    "QueueFullError",
    "RefusedError",
    "StudioClient",
    "StudioError",
    "UnavailableError",
    "UnreachableError",
]
