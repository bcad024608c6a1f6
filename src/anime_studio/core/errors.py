"""Every error that is raised on purpose, each with a stable code.

    AnimeStudioError
    ├── RequestError                 the caller must change something
    │   ├── InvalidRequestError             invalid_request            422
    │   ├── UnsupportedByRecipeError        unsupported_by_recipe      422
    │   ├── IdempotencyConflictError        idempotency_conflict       422
    │   ├── BudgetExceededError             budget_exceeded            422
    │   ├── DeadlineUnmeetableError         deadline_unmeetable        409
    │   └── JobNotFoundError                job_not_found              404
    ├── QueueFullError                      queue_full                 429
    ├── OrdersPausedError                   orders_paused              503
    ├── BudgetSpentError                    budget_spent               503
    ├── OperatorOnlyError                   operator_only              401
    ├── JobStoppedError              the job ended without a clip
    │   ├── JobCancelledError               job_cancelled              409
    │   ├── DeadlineExceededError           deadline_exceeded          409
    │   ├── WorkerDiedError                 worker_died                500
    │   └── WorkerHungError                 worker_hung                500
    ├── EngineError                         engine_failed              500
    │   ├── WeightsMissingError             weights_missing            503
    │   ├── CheckpointError                 checkpoint_invalid         503
    │   ├── BadFramesError                  frames_invalid             500
    │   └── OutOfMemoryError                out_of_memory              503
    ├── StorageError                        storage_failed             503
    │   └── DiskFullError                   disk_full                  507
    ├── ClipUrlError
    │   ├── ClipUrlMalformedError           url_malformed              400
    │   ├── ClipUrlInvalidError             url_invalid                403
    │   ├── ClipUrlExpiredError             url_expired                403
    │   ├── ClipHiddenError                 clip_hidden                403
    │   └── ClipGoneError                   clip_gone                  410
    ├── UnavailableError                    unavailable                503
    ├── HubError                     weights could not be fetched
    │   ├── HubUnreachableError             hub_unreachable            503
    │   ├── HubRateLimitedError             hub_rate_limited           503
    │   ├── HubDeniedError                  hub_denied                 503
    │   └── HubNotFoundError                hub_not_found              503
    ├── ConfigurationError                  configuration_invalid      500
    └── ReportedError                a problem of another process, with its code and status

`status` is the number a caller sees, in an HTTP answer and in a job's `error`.
Where callers act differently, errors are siblings, not subclasses.
"""

from __future__ import annotations

import errno
from datetime import datetime
from typing import ClassVar

from anime_studio.core.plain_text import without_folders
from common.schemas import Problem


class AnimeStudioError(Exception):
    """Root of the tree; `detail` says what happened, to what, and what to do."""

    code: str = "internal_error"
    title: str = "Something went wrong on our side"
    status: int = 500
    retryable: bool = False

    def __init__(self, detail: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s

    def problem(self, request_id: str | None = None) -> Problem:
        """Return the error as an RFC 9457 body, which callers see: without the folders of this machine."""
        return Problem(
            type=f"/problems/{self.code}",
            title=self.title,
            status=self.status,
            detail=without_folders(self.detail),
            code=self.code,
            retryable=self.retryable,
            request_id=request_id,
            retry_after_s=self.retry_after_s,
        )


class RequestError(AnimeStudioError):
    """The request as sent can never be served."""

    status = 422


class InvalidRequestError(RequestError):
    """A field is missing, malformed or out of bounds."""

    code = "invalid_request"
    title = "The request is not valid"


class UnsupportedByRecipeError(RequestError):
    """Valid, but the deployment's recipe cannot render it."""

    code = "unsupported_by_recipe"
    title = "This recipe cannot do that"


class IdempotencyConflictError(RequestError):
    """The Idempotency-Key was used before with another body."""

    code = "idempotency_conflict"
    title = "The Idempotency-Key belongs to another request"


class BudgetExceededError(RequestError):
    """The projected cost of the job is over the budget set for one clip."""

    code = "budget_exceeded"
    title = "The clip would cost more than the budget"


class DeadlineUnmeetableError(RequestError):
    """The clip cannot be ready in time, so no GPU is woken for it."""

    code = "deadline_unmeetable"
    title = "The deadline cannot be met"
    status = 409
    retryable = True


class JobNotFoundError(RequestError):
    """No such job, or its record was swept."""

    code = "job_not_found"
    title = "There is no such job"
    status = 404


class QueueFullError(AnimeStudioError):
    """As many jobs are waiting as the deployment allows."""

    code = "queue_full"
    title = "The queue is full"
    status = 429
    retryable = True


class OrdersPausedError(AnimeStudioError):
    """The operator takes no new jobs for now; those that were accepted go on."""

    code = "orders_paused"
    title = "The show takes no orders for now"
    status = 503
    retryable = True


class BudgetSpentError(AnimeStudioError):
    """The day's or the month's budget is spent, so no GPU is woken."""

    code = "budget_spent"
    title = "The budget is spent"
    status = 503
    retryable = True


class OperatorOnlyError(AnimeStudioError):
    """Only the operator may see or do this, and the caller did not send the operator's key."""

    code = "operator_only"
    title = "Only the operator may do this"
    status = 401


class JobStoppedError(AnimeStudioError):
    """The job ended without a clip and without a fault of the engine."""


class JobCancelledError(JobStoppedError):
    """Its owner cancelled it."""

    code = "job_cancelled"
    title = "The job was cancelled"
    status = 409


class DeadlineExceededError(JobStoppedError):
    """Its deadline passed before the clip was ready."""

    code = "deadline_exceeded"
    title = "The deadline passed"
    status = 409


class WorkerDiedError(JobStoppedError):
    """The job's worker died each time it was tried."""

    code = "worker_died"
    title = "The worker died while drawing"
    retryable = True


class WorkerHungError(JobStoppedError):
    """The job's worker went silent, and was killed, the last of the times that the job was tried."""

    code = "worker_hung"
    title = "The worker hung while drawing"
    retryable = True


class EngineError(AnimeStudioError):
    """Rendering failed."""

    code = "engine_failed"
    title = "The engine failed"
    retryable = True


class WeightsMissingError(EngineError):
    """The recipe's weights are not on this machine; the detail names the command that fetches them."""

    code = "weights_missing"
    title = "The model's weights are missing"
    status = 503

    def __init__(self, detail: str, *, command: str | None = None) -> None:
        super().__init__(detail)
        self.command = command


class CheckpointError(EngineError):
    """A checkpoint file is truncated, altered, or of another architecture; the detail names it."""

    code = "checkpoint_invalid"
    title = "The checkpoint cannot be used"
    status = 503
    retryable = False


class BadFramesError(EngineError):
    """The model made NaN, black or constant frames."""

    code = "frames_invalid"
    title = "The drawn frames are unusable"


class OutOfMemoryError(EngineError):
    """The device ran out of memory."""

    code = "out_of_memory"
    title = "Out of memory"
    status = 503


class StorageError(AnimeStudioError):
    """A record or clip could not be stored."""

    code = "storage_failed"
    title = "Storage failed"
    status = 503
    retryable = True


class DiskFullError(StorageError):
    """The disk has no room for records or clips."""

    errnos: ClassVar = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
    """Values of `OSError.errno` that mean it."""

    code = "disk_full"
    title = "The disk is full"
    status = 507


class ClipUrlError(AnimeStudioError):
    """A clip URL that cannot be served."""


class ClipUrlMalformedError(ClipUrlError):
    """The URL does not have the form that we sign."""

    code = "url_malformed"
    title = "The URL is malformed"
    status = 400


class ClipUrlInvalidError(ClipUrlError):
    """The signature is not ours."""

    code = "url_invalid"
    title = "The URL's signature is not valid"
    status = 403


class ClipUrlExpiredError(ClipUrlError):
    """The signature is genuine but its time has passed."""

    code = "url_expired"
    title = "The URL has expired"
    status = 403

    def __init__(self, expires_at: datetime) -> None:
        super().__init__(
            f"the URL expired at {expires_at:%Y-%m-%dT%H:%M:%SZ}; read the job again (GET /jobs/{{job_id}}) for a fresh one"
        )
        self.expires_at = expires_at


class ClipHiddenError(ClipUrlError):
    """The clip is there, but the operator hid it, or a moderator has not shown it yet."""

    code = "clip_hidden"
    title = "The clip is not shown now"
    status = 403


class ClipGoneError(ClipUrlError):
    """The clip was swept, or a check found it damaged."""

    code = "clip_gone"
    title = "The clip is gone"
    status = 410


class UnavailableError(AnimeStudioError):
    """The service cannot take work now."""

    code = "unavailable"
    title = "The service cannot take work now"
    status = 503
    retryable = True


class HubError(AnimeStudioError):
    """The model hub did not give what was asked for."""

    status = 503


class HubUnreachableError(HubError):
    """No answer came, or one that says that the hub itself fails."""

    code = "hub_unreachable"
    title = "The model hub cannot be reached"
    retryable = True


class HubRateLimitedError(HubError):
    """The hub asks this address to wait."""

    code = "hub_rate_limited"
    title = "The model hub asks to wait"
    retryable = True


class HubDeniedError(HubError):
    """The repository is gated or private, or has another name: the hub does not tell these apart."""

    code = "hub_denied"
    title = "The model hub refuses"


class HubNotFoundError(HubError):
    """There is no such repository, revision or file."""

    code = "hub_not_found"
    title = "The model hub has no such repository or revision"


class ConfigurationError(AnimeStudioError):
    """A setting is missing or wrong; the detail names it and the fix."""

    code = "configuration_invalid"
    title = "The configuration is not valid"


class ReportedError(AnimeStudioError):
    """A problem that another process reported; a caller of this one sees it unchanged."""

    def __init__(self, problem: Problem, *, retry_after_s: float | None = None) -> None:
        super().__init__(problem.detail, retry_after_s=retry_after_s or problem.retry_after_s)
        self.code, self.title = problem.code, problem.title
        self.status, self.retryable = problem.status, problem.retryable
