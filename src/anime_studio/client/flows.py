"""The client's calls, written once, without input or output of their own ("sans-io").

Each call is a generator. It yields an effect (`Send`, `Read`, `ReadAll`, `Sleep`) and is sent
its outcome, or it yields a job for the caller (`Report`). `sync` and `aio` perform these five
effects and do nothing else, so both clients retry, resume and give up in the same way. httpx
runs its `Auth` flows like this.
"""

from __future__ import annotations

import random
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, TypeVar
from urllib.parse import quote, urljoin

import httpx
from pydantic import BaseModel, ValidationError

from anime_studio.client.errors import (
    RETRYABLE_STATUSES,
    StudioError,
    UnavailableError,
    UnreachableError,
    error_of,
    unexpected,
)
from common.operator import OperatorAction, OperatorAnswer, OperatorView
from common.schemas import Job, Readiness

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

FIRST_BACKOFF_S: Final = 0.25
LONGEST_BACKOFF_S: Final = 10.0
MODAL_WAITED_TOO_LONG: Final = 303
"""Modal's answer to a call that took 150 s: the address of its result (modal.com/docs, webhook timeouts)."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send a request; the outcome is the answer, its body unread if `stream`."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    content: str | None = None
    read_timeout_s: float | None = None
    stream: bool = False

    @property
    def follows_redirects(self) -> bool:
        """A GET may go on at another address, a POST may not."""
        return self.method == "GET"


@dataclass(frozen=True, slots=True)
class Read:
    """Read the next bytes of the streamed answer; the outcome is empty at its end."""


@dataclass(frozen=True, slots=True)
class ReadAll:
    """Read the rest of the streamed answer; the outcome is the answer with its body."""


@dataclass(frozen=True, slots=True)
class Sleep:
    """Pause."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Report:
    """Hand the caller a version of the job."""

    job: Job


Effect: TypeAlias = Send | Read | ReadAll | Sleep | Report
Flow: TypeAlias = Generator[Effect, Any, T]


@dataclass(frozen=True, slots=True)
class Studio:
    """Where the studio is, and how long its callers retry.

    Attributes:
        url: Its address, without a slash at the end.
        retry_for_s: How long a call without an answer, or with one of `RETRYABLE_STATUSES`, is retried.
        patience_s: How long a wait goes on while the server does not answer, as during its restart.
    """

    url: str
    retry_for_s: float
    patience_s: float

    def without_retry(self) -> Studio:
        """Return the same studio for calls that are tried once."""
        return Studio(self.url, retry_for_s=0, patience_s=0)


class Backoff:
    """Pauses that double, with jitter, until *give_up_after_s* has passed."""

    def __init__(self, give_up_after_s: float) -> None:
        self._gives_up_at = time.monotonic() + give_up_after_s
        self._next_s = FIRST_BACKOFF_S

    def pause_s(self, error: StudioError) -> float:
        """Return the longer of the next pause and the error's `Retry-After`; raise *error* if the time is up by then."""
        pause_s = self._next_s * random.uniform(0.5, 1.0)  # noqa: S311  spreads callers, guards nothing
        self._next_s = min(self._next_s * 2, LONGEST_BACKOFF_S)
        pause_s = max(pause_s, error.problem.retry_after_s or 0.0)
        if time.monotonic() + pause_s > self._gives_up_at:
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
                send = Send("GET", urljoin(str(response.url), response.headers["location"]))
                continue
            error = with_retry_after(error_of(response), response)
            if response.status_code not in RETRYABLE_STATUSES:
                raise error
        yield Sleep(backoff.pause_s(error))


def submit(studio: Studio, body: str, idempotency_key: str) -> Flow[Job]:
    """Create a job, once, however often the request is sent."""
    headers = {
        "Content-Type": "application/json",
        "Idempotency-Key": idempotency_key,
        "Prefer": "respond-async",
    }
    return ask(studio, Send("POST", f"{studio.url}/generate", headers, body), Job)


def get_job(studio: Studio, job_id: str) -> Flow[Job]:
    """Read a job."""
    return ask(studio, Send("GET", job_url(studio, job_id)), Job)


def cancel(studio: Studio, job_id: str) -> Flow[Job]:
    """Cancel a job."""
    return ask(studio, Send("DELETE", job_url(studio, job_id)), Job)


def show_clip(studio: Studio, job_id: str) -> Flow[Job]:
    """Put a held clip on its channel."""
    return ask(studio, Send("POST", f"{job_url(studio, job_id)}/show"), Job)


def warm(studio: Studio) -> Flow[Readiness]:
    """Ask for a ready worker; safe to repeat."""
    return ask(studio, Send("POST", f"{studio.url}/warm"), Readiness)


def operator_view(studio: Studio, key: str | None) -> Flow[OperatorView]:
    """Read the operator's view."""
    return ask(studio, Send("GET", f"{studio.url}/operator", _as_operator(key)), OperatorView)


def operate(studio: Studio, action: OperatorAction, key: str | None) -> Flow[OperatorAnswer]:
    """Act as the operator; safe to repeat."""
    headers = {"Content-Type": "application/json", **_as_operator(key)}
    send = Send("POST", f"{studio.url}/operator", headers, action.model_dump_json(exclude_none=True))
    return ask(studio, send, OperatorAnswer)


def _as_operator(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Authorization": f"Bearer {key}"}


def read(studio: Studio, path: str, model: type[M]) -> Flow[M]:
    """Read any other resource."""
    return ask(studio, Send("GET", studio.url + path), model)


def post(studio: Studio, path: str, body: BaseModel, model: type[M]) -> Flow[M]:
    """Post *body* once: it may have arrived even when no answer came."""
    headers = {"Content-Type": "application/json"}
    send = Send("POST", studio.url + path, headers, body.model_dump_json())
    return ask(studio.without_retry(), send, model)


def ready(studio: Studio, resolution: str | None) -> Flow[Readiness]:
    """Ask whether a job would be rendered; a 503 is an answer too, not an error."""
    path = "/ready" if resolution is None else f"/ready?resolution={quote(resolution, safe='')}"
    try:
        return (yield from read(studio.without_retry(), path, Readiness))
    except UnavailableError as error:
        if error.code == "unexpected_answer":
            raise
        problem = error.problem
        return Readiness(
            ready=False, status="unavailable", detail=problem.detail, problem=problem, code=problem.code
        )


def job_url(studio: Studio, job_id: str) -> str:
    """Return a job's address; any characters in *job_id* stay within its segment."""
    return f"{studio.url}/jobs/{quote(job_id, safe='')}"


def ask(studio: Studio, send: Send, model: type[M]) -> Flow[M]:
    """Send *send* and return the answer as *model*; see `call`.

    Raises:
        StudioError: The answer is something else (`unexpected_answer`).
    """
    response = yield from call(studio, send)
    try:
        return model.model_validate_json(response.content)
    except ValidationError as error:
        raise unexpected(response.request.url, f"did not answer with a {model.__name__}") from error


def with_retry_after(error: StudioError, response: httpx.Response) -> StudioError:
    """Return *error* with the answer's `Retry-After` in seconds: a proxy sets the header without a problem document."""
    text = response.headers.get("retry-after", "")
    if error.problem.retry_after_s is None and text.isascii() and text.isdigit():
        error.problem = error.problem.model_copy(update={"retry_after_s": float(text)})
    return error
