"""How a Modal call stands: pending, returned, or ended by one of five errors.

Sources: client 1.6.4, `modal/_functions.py` (`poll_function`: a call without a result yet raises the builtin
`TimeoutError`, a call whose result Modal has deleted raises `OutputExpiredError`) and
`modal/_utils/function_utils.py` (`_process_result`: `FunctionTimeoutError`, `InternalFailure`, else the exception that
the container's code raised, or `RemoteError` with the server's words when there is none: memory ran out, exit code 137
or 139, a crash loop, a call that was stopped). `RemoteError` does not say who stopped a call. Only the owner's own mark
(`Key.CANCEL`) makes a cancel, and the job store reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import modal
from modal.exception import (
    ExecutionError,
    FunctionTimeoutError,
    InputCancellation,
    InternalFailure,
    OutputExpiredError,
    RemoteError,
)

from anime_studio.core.errors import AnimeStudioError, EngineError, WorkerDiedError
from anime_studio.core.jobs import JobRecord
from anime_studio.on_modal.errors import CLIENT_ERRORS


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call stands. Without a record and an error, it is pending, or Modal cannot be asked now."""

    record: JobRecord | None = None
    """The call returned, and this is the final record that it returned."""
    error: AnimeStudioError | None = None
    """The call ended without returning a record."""


PENDING = Outcome()


async def outcome_of(call_id: str, job_id: str) -> Outcome:
    """Ask once, without waiting, how the call that renders *job_id* stands."""
    logs = f"see: modal app logs anime-studio --function-call {call_id}"
    try:
        answer: Mapping[str, Any] = await modal.FunctionCall.from_id(call_id).get.aio(timeout=0)
    except OutputExpiredError:
        return Outcome(
            error=WorkerDiedError(f"job {job_id} ended long ago and its result is no longer stored")
        )
    except FunctionTimeoutError:
        return Outcome(error=WorkerDiedError(f"job {job_id} ran over its time limit and was stopped; {logs}"))
    except InternalFailure as error:
        return Outcome(error=WorkerDiedError(f"Modal lost the container of job {job_id} ({error}); {logs}"))
    except (RemoteError, InputCancellation) as error:
        reason = str(error) or "Modal gave no reason; somebody may have stopped the call there"
        return Outcome(
            error=WorkerDiedError(
                f"the container of job {job_id} ended before its clip was ready: {reason}; {logs}"
            )
        )
    except ExecutionError as error:
        return Outcome(
            error=EngineError(f"job {job_id} failed with an error that cannot be read here: {error}; {logs}")
        )
    except CLIENT_ERRORS:
        # The builtin TimeoutError: the call is not done. The others: Modal cannot be asked now, or does not know the
        # call, which does not prove that the call has ended.
        return PENDING
    except Exception as error:  # noqa: BLE001  what the container's code raised, at its start or later
        return Outcome(error=EngineError(f"job {job_id} failed: {type(error).__name__}: {error}; {logs}"))
    if "record" in answer:
        return Outcome(record=JobRecord.model_validate(answer["record"]))
    return PENDING  # another call has claimed the same job, and that call's end will be read
