"""Following a job to its end, through dropped streams and a restarting server.

Events are followed while the server offers them and each drop is taken up with
`Last-Event-ID`; between two streams, and where there are none (a proxy that does not pass
them), the job is read. The caller's deadline holds to about a second: a read cannot be cut
short, so a stream whose read timeout has become too long is opened anew.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import httpx

from anime_studio.client.errors import JobTimeoutError, StudioError, ended
from anime_studio.client.flows import Backoff, Flow, Read, Send, Sleep, Studio, Tell, get_job, job_url
from common.schemas import Job, JobState

QUIET_STREAM_S: Final = 45.0
"""Silence after which a stream counts as lost; the server sends a comment every 15 s."""
POLL_EVERY_S: Final = 1.0
DEADLINE_SLACK_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Deadline:
    """When a wait ends; None: with the job."""

    job_id: str
    timeout_s: float | None
    begun_s: float

    @classmethod
    def after(cls, job_id: str, timeout_s: float | None) -> Deadline:
        """Return the deadline that lies *timeout_s* ahead."""
        return cls(job_id, timeout_s, time.monotonic())

    def remaining_s(self, at_most_s: float) -> float:
        """Return the seconds left, at most *at_most_s*.

        Raises:
            JobTimeoutError: None are.
        """
        if self.timeout_s is None:
            return at_most_s
        left_s = self.begun_s + self.timeout_s - time.monotonic()
        if left_s <= 0:
            raise JobTimeoutError(self.job_id, self.timeout_s)
        return min(left_s, at_most_s)


@dataclass(slots=True)
class _Told:
    """What the caller has seen."""

    version: int
    job: Job | None = None
    streams: bool = True

    def tell(self, job: Job) -> Flow[None]:
        self.job = job
        if job.version > self.version:
            self.version = job.version
            yield Tell(job)

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
    """Tell each version of a job above *after*, and return its last."""
    deadline = Deadline.after(job_id, timeout_s)
    told = _Told(after)
    impatient = Studio(studio.url, retry_for_s=0, patience_s=0)
    backoff: Backoff | None = None
    while True:
        if told.streams:
            yield from _stream(studio, job_id, deadline, told)
        if told.final is None:
            try:
                job = yield from get_job(impatient, job_id)
            except StudioError as error:
                if not error.retryable:
                    raise
                backoff = backoff or Backoff(studio.patience_s)
                yield Sleep(deadline.remaining_s(backoff.pause_s(error)))
                continue
            backoff = None
            yield from told.tell(job)
        if told.final is not None:
            return told.final
        yield Sleep(deadline.remaining_s(POLL_EVERY_S))


def _stream(studio: Studio, job_id: str, deadline: Deadline, told: _Told) -> Flow[None]:
    """Tell what the event stream brings, until it is lost or the job has ended."""
    url = job_url(studio, job_id) + "/events"
    try:
        while told.final is None:
            timeout_s = deadline.remaining_s(QUIET_STREAM_S)
            headers = {"Accept": "text/event-stream"}
            if told.version >= 0:
                headers["Last-Event-ID"] = str(told.version)
            response: httpx.Response = yield Send("GET", url, headers, read_timeout_s=timeout_s, stream=True)
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                # 204: the end was told before; errors: the job's own address says more.
                told.streams = response.status_code == 204 or response.is_error
                return
            events = Events()
            while deadline.remaining_s(timeout_s) > timeout_s - DEADLINE_SLACK_S:
                chunk: bytes = yield Read()
                for job in events.feed(chunk):
                    yield from told.tell(job)
                if not chunk or told.final is not None:
                    return
    except (httpx.RequestError, StreamProblemError):
        return  # whatever it was, the job's own address says more


class StreamProblemError(Exception):
    """The server ended the stream with a problem, and asks to reconnect."""


class Events:
    """Reads jobs out of a `text/event-stream` (WHATWG HTML, 9.2.6), fed in pieces.

    Lines end in LF or CRLF, as our server writes them; a piece may end anywhere.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._event = "message"
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> Iterator[Job]:
        """Yield the jobs that are complete with *chunk*.

        Raises:
            StreamProblemError: The server told one.
        """
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            job = self._line(line.removesuffix(b"\r").decode())
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
        return Job.model_validate_json(data) if event == "job" and data else None
