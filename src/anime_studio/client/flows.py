"""What the client says to a studio, written once and free of input and output.

Each call is a generator that yields what it needs done (`Send`, `Read`, `Sleep`) or tells
(`Tell`), and is sent the outcome. `sync` and `aio` do those four things, each in its own
way, and nothing else; so both clients retry, resume and give up alike. httpx drives its
`Auth` flows the same way.
"""

from __future__ import annotations

import random
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from anime_studio.client.errors import (
    RETRYABLE_STATUSES,
    StudioError,
    UnavailableError,
    UnreachableError,
    error_of,
    own_problem,
)
from common.schemas import Job, Readiness

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

FIRST_BACKOFF_S: Final = 0.25
LONGEST_BACKOFF_S: Final = 10.0
MODAL_WAITED_TOO_LONG: Final = 303
"""Modal answers a call that took 150 s so, with the address of its result (modal.com/docs, webhook timeouts)."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send a request; the outcome is the answer, its body unread if `stream`."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    content: str | None = None
    read_timeout_s: float | None = None
    stream: bool = False


@dataclass(frozen=True, slots=True)
class Read:
    """Read on in the streamed answer; the outcome is bytes, empty at its end."""


@dataclass(frozen=True, slots=True)
class ReadAll:
    """Read the rest of the streamed answer into `Response.content`."""


@dataclass(frozen=True, slots=True)
class Sleep:
    """Pause."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Tell:
    """Show the caller a job as it stands."""

    job: Job


Effect: TypeAlias = Send | Read | ReadAll | Sleep | Tell
Flow: TypeAlias = Generator[Effect, Any, T]


@dataclass(frozen=True, slots=True)
class Studio:
    """Where the studio is and how patient its callers are.

    Attributes:
        url: Its address, without a slash at the end.
        retry_for_s: How long a call that met no answer, 429, 502, 503 or 504 is repeated.
        patience_s: How long a wait bears with a server that does not answer, as during its restart.
    """

    url: str
    retry_for_s: float
    patience_s: float


class Backoff:
    """Pauses that double, with jitter, until a time is used up."""

    def __init__(self, give_up_after_s: float) -> None:
        self._ends = time.monotonic() + give_up_after_s
        self._next_s = FIRST_BACKOFF_S

    def pause_s(self, error: StudioError) -> float:
        """Return how long to pause: as *error* asks, or our own while; raise it when that would be too long."""
        pause_s = self._next_s * random.uniform(0.5, 1.0)  # noqa: S311  spreads callers, guards nothing
        self._next_s = min(self._next_s * 2, LONGEST_BACKOFF_S)
        pause_s = max(pause_s, error.problem.retry_after_s or 0.0)
        if time.monotonic() + pause_s > self._ends:
            raise error
        return pause_s


def call(studio: Studio, send: Send) -> Flow[httpx.Response]:
    """Send *send*, which must be safe to repeat, until it is answered with success.

    Raises:
        UnreachableError: Nothing answered for `retry_for_s`.
        StudioError: The server refused, or still could not serve.
    """
    backoff = Backoff(studio.retry_for_s)
    while True:
        try:
            response: httpx.Response = yield send
        except httpx.RequestError as cause:
            error: StudioError = UnreachableError(studio.url, cause)
        else:
            if response.is_success:
                return response
            if response.status_code == MODAL_WAITED_TOO_LONG and "location" in response.headers:
                send = Send("GET", str(response.url.join(response.headers["location"])))
                continue
            error = with_retry_after(error_of(response), response)
            if response.status_code not in RETRYABLE_STATUSES:
                raise error
        yield Sleep(backoff.pause_s(error))


def get_job(studio: Studio, job_id: str) -> Flow[Job]:
    """Read a job."""
    response = yield from call(studio, Send("GET", job_url(studio, job_id)))
    return parse(Job, response)


def submit(studio: Studio, body: str, idempotency_key: str) -> Flow[Job]:
    """Make a job, once, however often it is sent."""
    headers = {
        "Content-Type": "application/json",
        "Idempotency-Key": idempotency_key,
        "Prefer": "respond-async",
    }
    response = yield from call(studio, Send("POST", f"{studio.url}/generate", headers, body))
    return parse(Job, response)


def cancel(studio: Studio, job_id: str) -> Flow[Job]:
    """Cancel a job."""
    response = yield from call(studio, Send("DELETE", job_url(studio, job_id)))
    return parse(Job, response)


def read(studio: Studio, path: str, model: type[M]) -> Flow[M]:
    """Read anything else that the server tells."""
    response = yield from call(studio, Send("GET", studio.url + path))
    return parse(model, response)


def post(studio: Studio, path: str, body: BaseModel, model: type[M]) -> Flow[M]:
    """Post *body* once: it may have arrived even when no answer came."""
    headers = {"Content-Type": "application/json"}
    once = Studio(studio.url, retry_for_s=0, patience_s=0)
    response = yield from call(once, Send("POST", studio.url + path, headers, body.model_dump_json()))
    return parse(model, response)


def warm(studio: Studio) -> Flow[Readiness]:
    """Ask for a worker to be made ready; safe to repeat."""
    response = yield from call(studio, Send("POST", f"{studio.url}/warm"))
    return parse(Readiness, response)


def ready(studio: Studio) -> Flow[Readiness]:
    """Ask whether a job would be drawn; a server that says no is an answer, not an error."""
    try:
        return (yield from read(Studio(studio.url, 0, 0), "/ready", Readiness))
    except UnavailableError as error:
        if error.code == "unexpected_answer":
            raise
        return Readiness(ready=False, status="unavailable", detail=error.problem.detail, code=error.code)


def job_url(studio: Studio, job_id: str) -> str:
    """Return a job's address; any characters in *job_id* stay within its segment."""
    return f"{studio.url}/jobs/{quote(job_id, safe='')}"


def parse(model: type[M], response: httpx.Response) -> M:
    """Return the answer as *model*.

    Raises:
        StudioError: It is something else (`unexpected_answer`).
    """
    try:
        return model.model_validate_json(response.content)
    except ValidationError as error:
        raise StudioError(
            own_problem(
                "unexpected_answer",
                f"{response.request.url.copy_with(query=None)} did not answer with a {model.__name__}; "
                "is this the address of an anime-studio?",
                status=502,
            )
        ) from error


def with_retry_after(error: StudioError, response: httpx.Response) -> StudioError:
    """Return *error* with the answer's `Retry-After` in seconds, which a proxy may have set alone."""
    text = response.headers.get("retry-after", "")
    if error.problem.retry_after_s is None and text.isascii() and text.isdigit():
        error.problem = error.problem.model_copy(update={"retry_after_s": float(text)})
    return error
