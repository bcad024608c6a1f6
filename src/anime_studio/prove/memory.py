"""What a run of `prove` on Modal keeps beside its report, so that another run goes on where it stopped: `state.json`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from anime_studio.core.errors import ConfigurationError
from anime_studio.prove.rows import write
from common.schemas import Job

STATE = "state.json"


class Start(BaseModel):
    """One forced start of a GPU container.

    Attributes:
        kind: By the platform's record, else by the container's own word: restore, snapshot, plain, recovered.
        recorded: The platform's record said so.
        wall_s: Seconds that the caller waited, less a call to a warm container.
        own_s: Of them, seconds of our own code.
        queued_s: Of them, seconds before the container began; None if the record does not say.
    """

    model_config = ConfigDict(frozen=True)

    kind: str
    recorded: bool
    wall_s: float
    own_s: float
    queued_s: float | None = None


class Receipt(BaseModel):
    """What one job of this run says that it cost."""

    model_config = ConfigDict(frozen=True)

    request_id: str
    usd: float
    ended_at: datetime


class Memory(BaseModel):
    """Everything of a run that its rows share."""

    model_config = ConfigDict(frozen=True)

    begun_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    starts: tuple[Start, ...] = ()
    crashes: int = 0
    receipts: tuple[Receipt, ...] = ()
    link: str | None = None
    link_expires_at: datetime | None = None


class MemoryFile:
    """Stores a `Memory` at each change.

    Args:
        folder: Of the report.
        resumed: Whether an earlier run's counts; else it is forgotten.
    """

    def __init__(self, folder: Path, *, resumed: bool) -> None:
        self._file = folder / STATE
        self.memory = self._earlier() if resumed else Memory()

    def keep(self, **changes: object) -> None:
        """Store the memory with *changes*."""
        self.memory = self.memory.model_copy(update=changes)
        write(self._file, self.memory.model_dump_json(indent=2))

    def note_receipt(self, job: Job) -> None:
        """Store what a final job cost."""
        if job.cost is not None and job.finished_at is not None:
            receipt = Receipt(request_id=job.request_id, usd=job.cost.usd, ended_at=job.finished_at)
            others = tuple(each for each in self.memory.receipts if each.request_id != job.request_id)
            self.keep(receipts=(*others, receipt))

    def _earlier(self) -> Memory:
        try:
            return Memory.model_validate_json(self._file.read_bytes())
        except FileNotFoundError:
            return Memory()
        except ValidationError:
            raise ConfigurationError(
                f"{self._file} is no state of prove; name another folder with --out"
            ) from None
