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


class Place(StrEnum):
    """Where the studio is that was proved."""

    LOCAL = "local"
    MODAL = "modal"


class _Written(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class ProofRow(_Written):
    """One thing that was looked at."""

    name: Annotated[str, Field(description="Name, as `--row` takes it.", examples=["fast"])]
    verdict: Annotated[Verdict, Field(description="How it ended.", examples=["holds"])]
    detail: Annotated[str, Field(description="What was seen, or why it was not checked.")]
    table: Annotated[
        tuple[tuple[str, ...], ...], Field(description="Figures behind the detail; the heading is first.")
    ] = ()
    picture: Annotated[
        str | None, Field(description="PNG beside the report, to be looked at.", examples=["fast.png"])
    ] = None
    starts_s: Annotated[
        dict[str, tuple[float, ...]],
        Field(description="Seconds of each cold start, by kind.", examples=[{"restore": [1.4, 1.6]}]),
    ] = {}
    seconds: Annotated[float, Field(ge=0, description="How long it took.", examples=[12.5])] = 0.0
    usd: Annotated[
        float, Field(ge=0, description="US dollars, counted from seconds and our rates.", examples=[0.004])
    ] = 0.0
    checked_at: Annotated[datetime, Field(description="When, UTC.", examples=["2026-11-27T20:00:00Z"])]


class ProofReport(_Written):
    """All rows of one place, in the order in which they are checked; a run resumes from it."""

    version: Annotated[str, Field(description="Version of the program.", examples=["0.1.0"])]
    place: Annotated[Place, Field(description="Where.", examples=["modal"])] = Place.LOCAL
    recipe: Annotated[str, Field(description="What draws.", examples=["fastwan-3step"])]
    device: Annotated[
        str, Field(description="The setting: auto, cpu or cuda; on Modal the type of GPU.", examples=["L4"])
    ]
    settings: Annotated[
        dict[str, str],
        Field(description="What else decides the rows.", examples=[{"decoder": "full"}]),
    ] = {}
    prompts: Annotated[tuple[str, ...], Field(description="Of a file; empty means the program's own.")] = ()
    expected_usd: Annotated[float, Field(ge=0, description="Price of all rows, computed before.")] = 0.0
    spent_usd: Annotated[
        float, Field(ge=0, description="Counted so far, rows that were checked twice included.")
    ] = 0.0
    rows: Annotated[tuple[ProofRow, ...], Field(description="Those checked so far.")] = ()


class ContainerReport(_Written):
    """What a GPU container says of itself."""

    container: Annotated[str, Field(description="Modal's id of it.", examples=["ta-01K"])]
    first: Annotated[bool, Field(description="Nobody called it before: the call waited for its start.")]
    start_kind: Annotated[str, Field(description="As it saw its own start.", examples=["restored"])]
    start_s: Annotated[float, Field(ge=0, description="Seconds of our own code in that start.")]
    error: Annotated[str | None, Field(description="Why it cannot draw; null if it can.")] = None
    settings: Annotated[dict[str, str], Field(description="Deployed, by variable.")] = {}
    packages: Annotated[dict[str, str], Field(description="Installed distributions and versions.")] = {}
    device: Annotated[str, Field(description="Card, memory, driver; or the CPU.")] = ""
    kernel: Annotated[str, Field(description="Of the host, as `uname -r` prints it.")] = ""
    cores: Annotated[int, Field(ge=0, description="That its process may use.")] = 0
    resident_gib: Annotated[float, Field(ge=0, description="Memory that its process holds.")] = 0.0
    paths: Annotated[tuple[str, ...], Field(description="Fast paths taken.")] = ()
    refused: Annotated[tuple[str, ...], Field(description="Fast paths that the card refused.")] = ()
    revision: Annotated[str, Field(description="Commit of the weights.")] = ""
    loaded_from: Annotated[str, Field(description="Folder that the weights came from.")] = ""
    prepared: Annotated[bool, Field(description="That folder is a prepared checkpoint.")] = False
