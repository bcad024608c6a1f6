"""The errors that the client raises: one class for each way to react.

    StudioError
    ├── ClientSettingsError      the proxy or certificate settings of the environment cannot be used
    ├── UnreachableError         no answer: is the server running, is the address right?
    ├── UnavailableError         it answers, but cannot serve now (5xx)
    ├── RefusedError             the request as sent is not served (4xx)
    │   ├── InvalidRequestError      change the request
    │   ├── QueueFullError           come back later
    │   ├── DeadlineUnmeetableError  ask for more time, or play a fallback
    │   └── JobNotFoundError         the id is wrong or its record was swept
    ├── JobTimeoutError          the wait is over, the job continues: `resume(error.job_id)`
    ├── JobEndedError            the job ended without a clip; `error.job` is its record
    │   ├── JobFailedError
    │   ├── JobCancelledError
    │   └── DeadlineExceededError
    └── DownloadError            the clip could not be downloaded
        ├── LinkExpiredError         and no job was given to renew it from
        ├── ClipGoneError            swept: submit the prompt again with the same seed
        └── DamagedDownloadError     size or SHA-256 differ from the record

Every error carries the `Problem` that the server sent, or one of the same form made by the client
(`unreachable`, `job_timeout`, `download_damaged`, `unexpected_answer`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import httpx
from pydantic import ValidationError

from common.schemas import Job, JobState, Problem

RETRYABLE_STATUSES: Final = frozenset({408, 429, 502, 503, 504})
_USER_INFO: Final = re.compile(r"//[^\s]*@")


def shown(url: str | httpx.URL) -> str:
    """Return *url* for people: without a password, and without the query, which may hold a signature."""
    return _USER_INFO.sub("//[secret]@", str(url).partition("?")[0])


class StudioError(Exception):
    """Root of the client's errors.

    Attributes:
        problem: What happened, as RFC 9457 problem details.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem

    @property
    def code(self) -> str:
        """Stable name of what happened."""
        return self.problem.code

    @property
    def retryable(self) -> bool:
        """Whether the same call may succeed later."""
        return self.problem.retryable


class ClientSettingsError(StudioError):
    """The proxy or certificate settings of the environment cannot be used; the detail names them."""

    def __init__(self, detail: str) -> None:
        super().__init__(own_problem("configuration_invalid", detail))


class UnreachableError(StudioError):
    """Nothing answered at the address."""

    def __init__(self, url: str, cause: Exception) -> None:
        reason = str(cause) or type(cause).__name__
        super().__init__(own_problem("unreachable", f"no answer from {shown(url)}: {reason}", retryable=True))
        self.url = url


class UnavailableError(StudioError):
    """The server answers, but cannot serve this now."""


class RefusedError(StudioError):
    """The server does not serve this request."""


class InvalidRequestError(RefusedError):
    """A field is wrong, out of bounds, or beyond the recipe or the budget."""


class QueueFullError(RefusedError):
    """As many jobs wait as the server allows."""


class DeadlineUnmeetableError(RefusedError):
    """The clip cannot be ready in time; no job was made."""


class JobNotFoundError(RefusedError):
    """No job has this id."""


class JobTimeoutError(StudioError):
    """The wait is over, the job continues; `resume(error.job_id)` waits for it again."""

    def __init__(self, job_id: str, timeout_s: float) -> None:
        detail = f"job {job_id} had not ended after {timeout_s:g} s; it goes on: resume it by this id"
        super().__init__(own_problem("job_timeout", detail, retryable=True))
        self.job_id = job_id


class JobEndedError(StudioError):
    """The job ended without a clip."""

    def __init__(self, job: Job) -> None:
        super().__init__(job.error or own_problem("job_failed", f"job {job.job_id} ended as {job.state}"))
        self.job = job


class JobFailedError(JobEndedError):
    """Rendering failed."""


class JobCancelledError(JobEndedError):
    """Its owner cancelled it."""


class DeadlineExceededError(JobEndedError):
    """Its deadline passed before the clip was ready."""


class DownloadError(StudioError):
    """The clip could not be downloaded."""


class LinkExpiredError(DownloadError):
    """The link has expired; download by job or job id, and it is renewed."""


class ClipGoneError(DownloadError):
    """The clip was swept."""


class DamagedDownloadError(DownloadError):
    """The bytes differ from the record."""

    def __init__(self, detail: str) -> None:
        super().__init__(own_problem("download_damaged", detail, retryable=True))


_BY_CODE: Final[Mapping[str, type[StudioError]]] = {
    "invalid_request": InvalidRequestError,
    "unsupported_by_recipe": InvalidRequestError,
    "idempotency_conflict": InvalidRequestError,
    "budget_exceeded": InvalidRequestError,
    "queue_full": QueueFullError,
    "deadline_unmeetable": DeadlineUnmeetableError,
    "job_not_found": JobNotFoundError,
    "url_expired": LinkExpiredError,
    "url_invalid": DownloadError,
    "url_malformed": DownloadError,
    "clip_hidden": DownloadError,
    "clip_gone": ClipGoneError,
}


def own_problem(code: str, detail: str, *, status: int = 500, retryable: bool = False) -> Problem:
    """Return a problem document for an error that the client itself found."""
    return Problem(
        type=f"/problems/{code}",
        title=code.replace("_", " ").capitalize(),
        status=status,
        detail=detail,
        code=code,
        retryable=retryable,
    )


def unexpected(url: str | httpx.URL, what: str) -> StudioError:
    """Return the error for an answer that is not a studio's."""
    detail = f"{shown(url)} {what}; is this the address of an anime-studio?"
    return StudioError(own_problem("unexpected_answer", detail, status=502))


def invalid(error: ValidationError) -> InvalidRequestError:
    """Return the error for a request that the contract refuses before it is sent."""
    detail = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
    return InvalidRequestError(own_problem("invalid_request", detail, status=422))


def error_of(response: httpx.Response) -> StudioError:
    """Return the error that an answer with an error status means."""
    problem = _problem_of(response)
    kind = _BY_CODE.get(problem.code)
    if kind is None:
        kind = UnavailableError if problem.status >= 500 else RefusedError
    return kind(problem)


def ended(job: Job) -> JobEndedError:
    """Return the error for a job that ended without a clip."""
    if job.state is JobState.CANCELLED:
        return JobCancelledError(job)
    if job.error is not None and job.error.code == "deadline_exceeded":
        return DeadlineExceededError(job)
    return JobFailedError(job)


def _problem_of(response: httpx.Response) -> Problem:
    try:
        return Problem.model_validate_json(response.content)
    except ValidationError:  # a proxy's page, or another service
        status = response.status_code
        return own_problem(
            "unexpected_answer",
            f"{shown(response.request.url)} answered {status} {response.reason_phrase} "
            "without a problem document; is this the address of an anime-studio?",
            status=status if 400 <= status <= 599 else 502,
            retryable=status in RETRYABLE_STATUSES,
        )
