"""The error that stops a worker is what its callers read."""

import pytest

from anime_studio.core.errors import (
    CheckpointError,
    DiskFullError,
    ReportedError,
    WeightsMissingError,
    WorkerDiedError,
)
from anime_studio.core.readiness import not_ready, refuse_if_blocked, starting
from common.schemas import Readiness

MISSING = WeightsMissingError("no weights; fetch them with: get them", command="get them")


@pytest.mark.parametrize("error", [MISSING, CheckpointError("truncated"), DiskFullError("no room")])
def test_the_problem_is_the_errors_own_but_for_its_status(error):
    readiness = not_ready(error)

    assert (readiness.ready, readiness.status, readiness.code) == (False, "unavailable", error.code)
    assert readiness.problem == error.problem().model_copy(update={"status": 503})


def test_it_survives_the_pipe_to_the_server():
    assert Readiness.model_validate_json(not_ready(MISSING).model_dump_json()) == not_ready(MISSING)


@pytest.mark.parametrize("error", [MISSING, CheckpointError("truncated")])
def test_a_job_is_refused_with_the_problem_that_a_person_must_fix(error):
    with pytest.raises(ReportedError) as refused:
        refuse_if_blocked(not_ready(error))

    assert refused.value.problem("r_1") == not_ready(error).problem.model_copy(update={"request_id": "r_1"})


def test_a_job_may_wait_for_a_worker_that_starts_or_starts_again():
    refuse_if_blocked(starting("loading the model"))
    refuse_if_blocked(not_ready(WorkerDiedError("exited")))
    refuse_if_blocked(Readiness(ready=True, status="ready", detail="one worker is ready"))
