"""GPUs that failed their check, counted for all containers: one bad host is left, a fault of every host is told.

A container whose GPU fails its check may stop before it takes an input, and Modal starts another one, on another host
perhaps. Where every host fails (a driver older than the image's CUDA, a card that the wheels do not support), that
would go on for ever, on paid time, and no job would end. So each failure is stored. After three in ten minutes a
container takes its input and fails the job with the reason, and `/ready` tells the reason.

The failures are one entry of the Dict `jobs`. Two containers that fail in the same moment may count as one, which costs
one more start.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import modal

from anime_studio.core.errors import AnimeStudioError, EngineError
from anime_studio.on_modal.errors import CLIENT_ERRORS

ENTRY: Final = "gpu-failures"
ENOUGH: Final = 3
WINDOW: Final = timedelta(minutes=10)


def next_entry(entry: Mapping[str, Any] | None, detail: str, now: datetime) -> dict[str, Any]:
    """Return the entry with one more failure; those older than `WINDOW` leave it."""
    return {
        "at": [*(moment.isoformat() for moment in _recent(entry, now)), now.isoformat()],
        "detail": detail,
    }


def no_gpu_works(entry: Mapping[str, Any] | None, now: datetime) -> EngineError | None:
    """Return the error that says that no host's GPU works, or None while fewer than `ENOUGH` failed lately."""
    failed = len(_recent(entry, now))
    if entry is None or failed < ENOUGH:
        return None
    return EngineError(
        f"no GPU that Modal gave works: {failed} containers failed in the last {WINDOW.seconds // 60} minutes, the last "
        f"with: {entry['detail']}; see: modal app logs anime-studio"
    )


def note(jobs: modal.Dict, error: AnimeStudioError | None) -> bool:
    """Store one more failure, and return whether so many failed that this container should take its input.

    When the Dict cannot be reached the answer is False: the container stops, as after a first failure.
    """
    now = datetime.now(UTC)
    try:
        entry = next_entry(jobs.get(ENTRY), error.detail if error else "no reason was given", now)
        jobs.put(ENTRY, entry)
    except CLIENT_ERRORS:
        return False
    return no_gpu_works(entry, now) is not None


def forget_soon(jobs: modal.Dict) -> None:
    """Remove the entry, because a GPU works. A thread does it: a cold start waits for no Dict."""

    def forget() -> None:
        with contextlib.suppress(*CLIENT_ERRORS):  # then the entry ages
            jobs.pop(ENTRY, None)

    threading.Thread(target=forget, name="forget-gpu-failures", daemon=True).start()


def _recent(entry: Mapping[str, Any] | None, now: datetime) -> Sequence[datetime]:
    moments = [datetime.fromisoformat(moment) for moment in entry["at"]] if entry else []
    return [moment for moment in moments if now - moment < WINDOW]
