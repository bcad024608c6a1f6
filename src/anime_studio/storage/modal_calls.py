"""What became of a Modal call: the five outcomes of polling it, told apart.

Sources: client 1.6.4, `modal/_functions.py` (`poll_function`: nothing yet is the builtin `TimeoutError`, a
result that is no longer kept is `OutputExpiredError`) and `modal/_utils/function_utils.py` (`_process_result`:
`FunctionTimeoutError`, `InternalFailure`, `RemoteError` when it was stopped, else what the code raised).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from socket import gaierror
from typing import Any

import modal
from grpclib.exceptions import GRPCError, StreamTerminatedError
from modal.exception import (
    ExecutionError,
    FunctionTimeoutError,
    InputCancellation,
    InternalFailure,
    OutputExpiredError,
    RemoteError,
)

from anime_studio.core.errors import AnimeStudioError, EngineError, JobCancelledError, WorkerDiedError
from anime_studio.core.jobs import JobRecord


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call stands. Neither field: it is still pending, or nobody can tell now."""

    record: JobRecord | None = None
    """It returned, and this is the job's end as it knew it."""
    error: AnimeStudioError | None = None
    """It ended without telling the job's end."""


PENDING = Outcome()


async def outcome_of(call_id: str, job_id: str) -> Outcome:
    """Ask once, without waiting, what became of the call that draws *job_id*."""
    logs = f"see: modal app logs anime-studio --function-call {call_id}"
    try:
        answer: Mapping[str, Any] = await modal.FunctionCall.from_id(call_id).get.aio(timeout=0)
    except OutputExpiredError:
        return Outcome(error=WorkerDiedError(f"job {job_id} ended long ago and its result is no longer kept"))
    except FunctionTimeoutError:
        return Outcome(error=WorkerDiedError(f"job {job_id} ran over its time limit and was stopped; {logs}"))
    except InternalFailure as error:
        return Outcome(error=WorkerDiedError(f"Modal lost the container of job {job_id} ({error}); {logs}"))
    except (RemoteError, InputCancellation) as error:
        detail = (
            f"the call that drew job {job_id} was stopped from outside ({error or 'no reason given'}); {logs}"
        )
        return Outcome(error=JobCancelledError(detail))
    except ExecutionError as error:
        return Outcome(error=EngineError(f"job {job_id} failed with something unreadable: {error}; {logs}"))
    except (TimeoutError, modal.exception.Error, GRPCError, StreamTerminatedError, ConnectionError, gaierror):
        # The builtin TimeoutError: not done. The others: Modal cannot be asked right now, or does not know the call,
        # which is no proof of its end.
        return PENDING
    except Exception as error:  # noqa: BLE001  whatever the container raised while starting or drawing comes out here
        return Outcome(error=EngineError(f"job {job_id} failed: {type(error).__name__}: {error}; {logs}"))
    if "record" in answer:
        return Outcome(record=JobRecord.model_validate(answer["record"]))
    return PENDING  # another call of the same job holds it; its own end will be read
