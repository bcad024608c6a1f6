"""Checks the whole way from a prompt to a played clip, with one real clip."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel

from anime_studio.client import StudioClient, StudioError
from anime_studio.client.connection import settings_for
from common.schemas import Clip, Job, JobState
from common.show import RecipeCard

PROMPT: Final = "a small cat sits on a roof at sunset"
RANGE_BYTES: Final = 1024
FIRST_BOX: Final = b"ftyp"


class Check(BaseModel):
    """One check and its result."""

    name: str
    passed: bool
    detail: str


class PreflightError(Exception):
    """A check got a wrong answer."""


def examine(url: str, timeout_s: float) -> Iterator[Check]:
    """Run the checks in order and yield each; the first that fails is the last."""
    try:
        with (
            StudioClient(url, retry_for_s=0, patience_s=timeout_s) as studio,
            httpx.Client(**settings_for(url)) as http,
        ):
            yield from _Preflight(studio, http, timeout_s).run()
    except ValueError as error:
        yield Check(name="address", passed=False, detail=str(error))


class _Preflight:
    """The steps. Each returns its detail and stores what later steps need."""

    def __init__(self, studio: StudioClient, http: httpx.Client, timeout_s: float) -> None:
        self.studio, self.http, self.timeout_s = studio, http, timeout_s
        self.recipe: RecipeCard
        self.job: Job
        self.clip: Clip

    def run(self) -> Iterator[Check]:
        steps: tuple[Callable[[], str], ...] = (
            self.health,
            self.ready,
            self.submit,
            self.events,
            self.clip_bytes,
            self.ranges,
            self.poster,
            self.link,
            self.receipt,
        )
        for step in steps:
            name = step.__name__.removesuffix("_bytes")
            try:
                yield Check(name=name, passed=True, detail=step())
            except (StudioError, PreflightError, httpx.HTTPError) as error:
                yield Check(name=name, passed=False, detail=str(error))
                return

    def health(self) -> str:
        health = self.studio.health()
        self.recipe = self.studio.recipe()
        return f"version {health.version}, recipe {health.recipe}, up {health.uptime_s:.0f} s"

    def ready(self) -> str:
        readiness = self.studio.ready()
        _require(readiness.ready, readiness.detail)
        return f"{readiness.status}, {readiness.queued} waiting"

    def submit(self) -> str:
        steps, duration = self.recipe.num_inference_steps, self.recipe.duration_s
        self.job = self.studio.submit(
            PROMPT,
            duration=duration.minimum,
            num_inference_steps=round(steps.minimum),
            seed=0,
            source="preflight",
        )
        return f"job accepted, {self.job.request.num_frames} frames, {self.job.request.num_inference_steps} steps"

    def events(self) -> str:
        seen = [job.state for job in self.studio.events(self.job.job_id, timeout_s=self.timeout_s)]
        self.job = self.studio.get(self.job.job_id)
        reason = self.job.error.detail if self.job.error else "no reason was given"
        _require(self.job.state is JobState.SUCCEEDED, f"the job ended as {self.job.state}: {reason}")
        if self.job.clip is None:
            raise PreflightError("the job succeeded, but its clip is gone: is the disk nearly full?")
        self.clip = self.job.clip
        return f"{len(seen)} events, {self.job.timings.total_s or 0:.1f} s, start {self.job.start_kind}"

    def clip_bytes(self) -> str:
        answer = self.http.get(self.clip.url)
        _require(answer.status_code == 200, f"{_origin(self.clip.url)} answered {answer.status_code}")
        _require(
            hashlib.sha256(answer.content).hexdigest() == self.clip.sha256, "the bytes differ from the record"
        )
        _require(answer.content[4:8] == FIRST_BOX, "the file is no MP4")
        head = answer.content[: answer.content.find(b"mdat")]
        _require(b"moov" in head, "the MP4 is not faststart: players would wait for its end")
        return f"{len(answer.content) / 1e6:.2f} MB MP4, SHA-256 as recorded, faststart"

    def ranges(self) -> str:
        answer = self.http.get(self.clip.url, headers={"Range": f"bytes=0-{RANGE_BYTES - 1}"})
        expected = min(RANGE_BYTES, self.clip.size_bytes)
        _require(answer.status_code == 206, f"a Range request got {answer.status_code}: OBS could not seek")
        _require(len(answer.content) == expected, f"a Range request got {len(answer.content)} bytes")
        return f"206, {answer.headers.get('content-range')}"

    def poster(self) -> str:
        answer = self.http.get(self.clip.poster_url)
        _require(answer.headers.get("content-type") == "image/jpeg", f"no JPEG but {answer.status_code}")
        return f"{len(answer.content) / 1e3:.0f} kB JPEG"

    def link(self) -> str:
        left_s = (self.clip.expires_at - datetime.now(UTC)).total_seconds()
        again = self.studio.get(self.job.job_id).clip
        _require(again is not None, "the clip is gone already")
        drift_s = abs(left_s - self.clip.expires_in_s)
        clocks = f"; this clock is {drift_s:.0f} s off the server's" if drift_s > self.timeout_s else ""
        return f"good for {self.clip.expires_in_s} s at {_origin(self.clip.url)}, renewed by reading the job{clocks}"

    def receipt(self) -> str:
        cost = self.job.cost
        return "no cost on the record" if cost is None else f"${cost.usd:.4f}: {cost.basis}"


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise PreflightError(otherwise)


def _origin(url: str) -> str:
    # Without the query, which opens the clip.
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
