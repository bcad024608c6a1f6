"""Follow a job to its end, across dropped streams and a server restart.

The event stream is read while the server offers one; after a drop it resumes with
`Last-Event-ID`. Between two streams, and where there is none (a proxy may block them), the
job itself is read. The caller's deadline holds to about a second: a read that has begun
cannot be cut short, so a stream whose read timeout has become too long is opened again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import httpx
from pydantic import ValidationError

from anime_studio.client.errors import JobTimeoutError, StudioError, ended
from anime_studio.client.flows import Backoff, Flow, Read, Report, Send, Sleep, Studio, get_job, job_url
from common.schemas import Job, JobState

QUIET_STREAM_S: Final = 45.0
"""A stream that is silent for so long counts as dropped; the server sends a comment every 15 s."""
POLL_EVERY_S: Final = 1.0
DEADLINE_SLACK_S: Final = 1.0
LARGEST_EVENT_CHARS: Final = 1024**2
"""A job is below 20,000; a stream with more without an end of the event is no stream of ours."""


class Deadline:
    """When the wait for a job ends; None: with the job."""

    def __init__(self, job_id: str, timeout_s: float | None) -> None:
        self._job_id = job_id
        self._timeout_s = math.inf if timeout_s is None else timeout_s
        self._ends_at = time.monotonic() + self._timeout_s

    def remaining_s(self, at_most_s: float) -> float:
        """Return the seconds that are left, at most *at_most_s*.

        Raises:
            JobTimeoutError: None are left.
        """
        left_s = self._ends_at - time.monotonic()
        if left_s <= 0:
            raise JobTimeoutError(self._job_id, self._timeout_s)
        return min(left_s, at_most_s)


@dataclass(slots=True)
class _Seen:
    """What the caller has seen, and whether the server offers a stream."""

    version: int
    job: Job | None = None
    streams: bool = True

    def report(self, job: Job) -> Flow[None]:
        self.job = job
        if job.version > self.version:
            self.version = job.version
            yield Report(job)

    @property
    def final(self) -> Job | None:
        return self.job if self.job is not None and self.job.state.final else None


def wait(studio: Studio, job_id: str, timeout_s: float | None) -> Flow[Job]:
    """Follow a job until it has a clip.

    Raises:
        JobTimeoutError: It had not ended after *timeout_s*; it goes on.
        JobEndedError: It ended without one.
        UnreachableError: The server has not answered for `patience_s`.
    """
    job = yield from follow(studio, job_id, timeout_s, after=-1)
    if job.state is JobState.SUCCEEDED:
        return job
    raise ended(job)


def follow(studio: Studio, job_id: str, timeout_s: float | None, after: int) -> Flow[Job]:
    """Report each version of the job above *after*, and return the last one."""
    deadline = Deadline(job_id, timeout_s)
    seen = _Seen(after)
    backoff: Backoff | None = None
    while True:
        if seen.streams:
            yield from _stream(studio, job_id, deadline, seen)
        if seen.final is None:
            try:
                job = yield from get_job(studio.without_retry(), job_id)
            except StudioError as error:
                if not error.retryable:
                    raise
                backoff = backoff or Backoff(studio.patience_s)
                yield Sleep(deadline.remaining_s(backoff.pause_s(error)))
                continue
            backoff = None
            yield from seen.report(job)
        if seen.final is not None:
            return seen.final
        yield Sleep(deadline.remaining_s(POLL_EVERY_S))


def _stream(studio: Studio, job_id: str, deadline: Deadline, seen: _Seen) -> Flow[None]:
    """Report the jobs of the event stream, until it drops or the job has ended."""
    url = job_url(studio, job_id) + "/events"
    try:
        while seen.final is None:
            timeout_s = deadline.remaining_s(QUIET_STREAM_S)
            headers = {"Accept": "text/event-stream"}
            if seen.version >= 0:
                headers["Last-Event-ID"] = str(seen.version)
            response: httpx.Response = yield Send("GET", url, headers, read_timeout_s=timeout_s, stream=True)
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                # 204: the caller has seen the end. Errors: reading the job shows the reason.
                seen.streams = response.status_code == 204 or response.is_error
                return
            events = Events()
            while deadline.remaining_s(timeout_s) > timeout_s - DEADLINE_SLACK_S:
                chunk: bytes = yield Read()
                for job in events.feed(chunk):
                    yield from seen.report(job)
                if not chunk or seen.final is not None:
                    return
    except (httpx.RequestError, StreamProblemError):
        return  # reading the job shows the reason


class StreamProblemError(Exception):
    """The stream holds an event `problem`, or what is no event of ours; reading the job shows how it goes on."""


class Events:
    """Reads jobs out of a `text/event-stream` (WHATWG HTML, 9.2.6), fed in pieces.

    Our server ends lines with LF or CRLF; a piece may end anywhere.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._event = "message"
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> Iterator[Job]:
        """Yield the jobs that are complete with *chunk*.

        Raises:
            StreamProblemError: The stream holds an event `problem`, or something that cannot be read.
        """
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) + sum(map(len, self._data)) > LARGEST_EVENT_CHARS:
            raise StreamProblemError("an event without an end")
        for line in lines:
            job = self._line(line.removesuffix(b"\r").decode(errors="replace"))
            if job is not None:
                yield job

    def _line(self, line: str) -> Job | None:
        if line:
            name, _, value = line.partition(":")
            if name == "event":
                self._event = value.removeprefix(" ")
            elif name == "data":
                self._data.append(value.removeprefix(" "))
            return None
        event, data = self._event, "\n".join(self._data)
        self._event, self._data = "message", []
        if event == "problem":
            raise StreamProblemError(data)
        try:
            return Job.model_validate_json(data) if event == "job" and data else None
        except ValidationError as error:
            raise StreamProblemError("an event that is no job") from error
