"""Readiness: the error that stops a worker becomes a problem, and travels as one to whoever asks.

A launcher makes the problem where the error is; the web layer answers it unchanged.
"""

from __future__ import annotations

from typing import Final, Literal

from anime_studio.core.errors import (
    AnimeStudioError,
    CheckpointError,
    ReportedError,
    UnavailableError,
    WeightsMissingError,
)
from common.schemas import Readiness

NEEDS_A_PERSON: Final = frozenset({WeightsMissingError.code, CheckpointError.code})
"""Problems that last until a person acts: a job that is queued meanwhile would only wait."""


def not_ready(
    error: AnimeStudioError, status: Literal["starting", "unavailable"] = "unavailable"
) -> Readiness:
    """Return the readiness of a worker that *error* stops; `/ready` answers its problem with 503."""
    problem = error.problem().model_copy(update={"status": UnavailableError.status})
    command: str | None = getattr(error, "command", None)
    return Readiness(
        ready=False, status=status, detail=error.detail, problem=problem, code=error.code, command=command
    )


def starting(detail: str) -> Readiness:
    """Return the readiness of a worker that will be ready by itself; *detail* says what it does now."""
    return not_ready(UnavailableError(detail), "starting")


def refuse_if_blocked(readiness: Readiness) -> None:
    """Refuse a job that no worker can render until a person acts.

    Raises:
        ReportedError: The worker's own problem; its detail names the command that fixes it.
    """
    if readiness.problem is not None and needs_a_person(readiness):
        raise ReportedError(readiness.problem)


def needs_a_person(readiness: Readiness) -> bool:
    """Return whether to wait is in vain until a person acts; the problem's detail says how."""
    return readiness.problem is not None and readiness.problem.code in NEEDS_A_PERSON
