"""What the worker writes to its server: readiness, and a heartbeat that says how long it may be silent next."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from common.schemas import Readiness, Stage


class Heartbeat(BaseModel):
    """The worker lives. After `limit_s` without another line it counts as hung."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit_s: Annotated[float, Field(gt=0)]
    stage: Stage | None = None
    """Of the job that it renders; None while it loads or waits."""


LINE: Final[TypeAdapter[Heartbeat | Readiness]] = TypeAdapter(Heartbeat | Readiness)
"""One line of the worker's standard output, as JSON."""
LONGEST_DETAIL: Final = 2_000
"""Characters of a reported detail, so that a line fits the server's buffer."""


def bounded(readiness: Readiness) -> Readiness:
    """Return *readiness* with details of at most `LONGEST_DETAIL` characters."""
    if len(readiness.detail) <= LONGEST_DETAIL:
        return readiness
    detail = readiness.detail[: LONGEST_DETAIL - 1] + "…"
    problem = readiness.problem and readiness.problem.model_copy(update={"detail": detail})
    return readiness.model_copy(update={"detail": detail, "problem": problem})
