"""What the worker process tells its supervisor: one line of JSON on a pipe for each change."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from anime_studio.core.errors import AnimeStudioError


class WorkerStatus(BaseModel):
    """Whether the worker can take work, and if not, why and which command helps."""

    model_config = ConfigDict(frozen=True)

    status: Literal["starting", "ready", "unavailable"]
    detail: str
    code: str | None = None
    command: str | None = None
    model_revision: str | None = None
    """Of the checkpoint that is loaded, once one is."""

    @classmethod
    def blocked(cls, error: AnimeStudioError) -> WorkerStatus:
        """Return the status of a worker that *error* keeps from working."""
        command: str | None = getattr(error, "command", None)
        return cls(status="unavailable", detail=error.detail, code=error.code, command=command)
