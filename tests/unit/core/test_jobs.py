"""The moves of a job: which are legal, and what each leaves."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anime_studio.core.clip import plan
from anime_studio.core.errors import BadFramesError
from anime_studio.core.jobs import Asset, IllegalMoveError, JobRecord, StoredClip
from anime_studio.core.recipes import TINY_RANDOM
from common.schemas import Cost, GenerateRequest, JobState, Progress, Stage, StartKind, Timings

NOW = datetime(2026, 11, 23, 20, 0, tzinfo=UTC)
LATER = NOW + timedelta(seconds=3)
PROBLEM = BadFramesError("black").problem("r_1")
CLIP_ID = "c_" + "0" * 32
CLIP = StoredClip(
    clip_id=CLIP_ID, size_bytes=10, sha256="a" * 64, poster_size_bytes=5, poster_sha256="b" * 64,
    width=48, height=32, num_frames=81, fps=16,
)  # fmt: skip
COST = Cost(usd=0.01, basis="measured")

Move = Callable[[JobRecord], JobRecord]
MOVES: dict[str, Move] = {
    "claimed": lambda job: job.claimed(LATER),
    "progressed": lambda job: job.progressed(Stage.DENOISE, Progress(step=1, total_steps=3), StartKind.COLD),
    "requeued": lambda job: job.requeued(),
    "succeeded": lambda job: job.succeeded(CLIP, Timings(total_s=3.0), COST, LATER),
    "failed": lambda job: job.failed(PROBLEM, LATER),
    "cancelled": lambda job: job.cancelled(PROBLEM, LATER),
}
LEGAL = {
    JobState.QUEUED: {"claimed", "failed", "cancelled"},
    JobState.RUNNING: set(MOVES),
    JobState.SUCCEEDED: set(),
    JobState.FAILED: set(),
    JobState.CANCELLED: set(),
}


def new_job() -> JobRecord:
    spec = plan(GenerateRequest(prompt="a cat"), TINY_RANDOM, model_revision="r", seed=1)
    return JobRecord(job_id="j_" + "0" * 32, clip_id=CLIP_ID, request_id="r_1", spec=spec, created_at=NOW)


def job_in(state: JobState) -> JobRecord:
    job = new_job()
    if state is JobState.QUEUED:
        return job
    job = MOVES["claimed"](job)
    return job if state is JobState.RUNNING else MOVES[state](job)


@pytest.mark.parametrize("state", JobState)
@pytest.mark.parametrize("move", MOVES)
def test_only_legal_moves_are_made(state, move):
    job = job_in(state)

    if move in LEGAL[state]:
        assert MOVES[move](job).version == job.version + 1
    else:
        with pytest.raises(IllegalMoveError, match=state):
            MOVES[move](job)


@given(st.lists(st.sampled_from(sorted(MOVES)), max_size=12))
def test_any_walk_keeps_the_record_whole(walk):
    job, versions = new_job(), 0
    for move in walk:
        if move not in LEGAL[job.state]:
            continue
        job, versions = MOVES[move](job), versions + 1
        assert job.version == versions
        assert job.state.final == (job.finished_at is not None)
        assert (job.state is JobState.SUCCEEDED) == (job.clip is not None)
        assert (job.error is not None) == (job.state in (JobState.FAILED, JobState.CANCELLED))
        assert job.attempts >= 0
        assert JobRecord.model_validate_json(job.model_dump_json()) == job


def test_a_claim_starts_over():
    first = MOVES["progressed"](MOVES["claimed"](new_job()))
    again = MOVES["claimed"](first)

    assert (again.attempts, again.stage, again.progress.step, again.clip_id) == (
        2,
        Stage.STARTING,
        0,
        CLIP_ID,
    )
    assert again.timings.queue_s == 3.0


def test_a_requeued_job_loses_no_attempt():
    job = MOVES["requeued"](MOVES["progressed"](MOVES["claimed"](new_job())))

    assert (job.state, job.attempts, job.stage, job.started_at, job.start_kind) == (
        "queued",
        0,
        None,
        None,
        None,
    )


def test_a_deadline_counts_from_the_submission():
    request = GenerateRequest(prompt="a cat", deadline_s=3, source="bot", channel="c" * 16)
    job = JobRecord.submitted(request, new_job().spec, request_id="r_1", now=NOW)

    assert (job.deadline_at, job.created_at, job.state) == (LATER, NOW, JobState.QUEUED)
    assert (job.source, job.channel) == ("bot", "c" * 16)


@pytest.mark.parametrize(
    ("attempts", "cancel", "end"),
    [(2, None, None), (3, None, JobState.FAILED), (1, PROBLEM, JobState.CANCELLED)],
)
def test_a_job_ends_before_its_start_when_cancelled_or_after_too_many_dead_workers(attempts, cancel, end):
    job = job_in(JobState.RUNNING).model_copy(update={"attempts": attempts})
    ended = job.ended_before_start(LATER, cancel=cancel, max_attempts=3, log="the log")

    assert (ended and ended.state) == end
    if end is JobState.FAILED:
        assert "3 times" in ended.error.detail and "the log has the reason" in ended.error.detail


def test_success_is_complete():
    job = MOVES["succeeded"](MOVES["claimed"](new_job()))

    assert job.progress == Progress(step=3, total_steps=3, fraction=1.0, eta_s=0.0)
    assert (job.stage, job.clip, job.cost, job.finished_at) == (None, CLIP, COST, LATER)


@pytest.mark.parametrize("move", ["failed", "cancelled"])
def test_an_end_without_a_clip_says_why_and_how_long_it_took(move):
    job = MOVES[move](new_job())

    assert (job.error, job.timings.total_s) == (PROBLEM, 3.0)


def test_a_clock_that_went_back_gives_no_negative_times():
    early = NOW - timedelta(seconds=5)

    assert new_job().claimed(early).timings.queue_s == 0.0
    assert new_job().cancelled(PROBLEM, early).timings.total_s == 0.0


def test_a_record_of_a_newer_version_is_read():
    data = new_job().model_dump(mode="json") | {"invented_later": 1}
    assert JobRecord.model_validate(data) == new_job()


def test_each_asset_has_its_own_size_and_hash():
    assert CLIP.size_and_hash(Asset.VIDEO) == (10, "a" * 64)
    assert CLIP.size_and_hash(Asset.POSTER) == (5, "b" * 64)
