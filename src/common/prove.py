"""What `anime-studio prove` writes: one row for each thing that was proved, or not, and why.

Part of the contract beside `common.schemas`; pydantic and the standard library only.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Verdict(StrEnum):
    """How a row ended."""

    HOLDS = "holds"
    FALLS_SHORT = "falls short"
    NOT_CHECKED = "not checked"


class ProofRow(BaseModel):
    """One thing that was looked at."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: Annotated[str, Field(description="Name, as `--row` takes it.", examples=["fast"])]
    verdict: Annotated[Verdict, Field(description="How it ended.", examples=["holds"])]
    detail: Annotated[str, Field(description="What was seen, or why it was not checked.")]
    picture: Annotated[
        str | None, Field(description="PNG beside the report, to be looked at.", examples=["fast.png"])
    ] = None
    checked_at: Annotated[datetime, Field(description="When, UTC.", examples=["2026-11-27T20:00:00Z"])]


class ProofReport(BaseModel):
    """All rows of one place, in the order in which they are checked; also the state from which a run resumes."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    version: Annotated[str, Field(description="Version of the program.", examples=["0.1.0"])]
    recipe: Annotated[str, Field(description="What draws.", examples=["fastwan-3step"])]
    device: Annotated[str, Field(description="The setting: auto, cpu or cuda.", examples=["auto"])]
    rows: Annotated[tuple[ProofRow, ...], Field(description="Those checked so far.")] = ()
