"""Which job is claimed next, and how often: the store as the worker uses it."""

import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from anime_studio.core.errors import JobCancelledError, StorageError
from anime_studio.core.jobs import JobRecord
from anime_studio.on_laptop.database import connect, insert, writing
from anime_studio.on_laptop.worker_store import RESUMABLE_FOR, SqliteWorkerStore
from common.schemas import JobState, Progress, Stage
from support.jobs import NOON, new_job

CANCEL = JobCancelledError("cancelled by its owner").problem("r_test")


@pytest.fixture
def file(path: Path) -> Iterator[sqlite3.Connection]:
    connection = connect(path)
    yield connection
    connection.close()


def add(file: sqlite3.Connection, job: JobRecord) -> JobRecord:
    with writing(file):
        insert(file, job)
    return job


def claim(store: SqliteWorkerStore) -> JobRecord:
    job = store.claim(NOON)
    assert job is not None
    return job


def test_the_oldest_job_is_claimed_first(store: SqliteWorkerStore, file: sqlite3.Connection) -> None:
    assert store.claim(NOON) is None
    older, newer = add(file, new_job()), add(file, new_job())
    first = claim(store)
    assert (first.job_id, first.state, first.stage, first.attempts) == (
        older.job_id,
        JobState.RUNNING,
        Stage.STARTING,
        1,
    )
    store.save(first.failed(CANCEL, NOON))
    assert claim(store).job_id == newer.job_id


def test_an_interrupted_job_is_claimed_again_before_the_queue_under_its_clip_id(
    store: SqliteWorkerStore, file: sqlite3.Connection
) -> None:
    job, _ = add(file, new_job()), add(file, new_job())
    claim(store)
    again = claim(store)
    assert (again.job_id, again.clip_id, again.attempts) == (job.job_id, job.clip_id, 2)


def test_a_job_that_outlived_three_workers_ends(store: SqliteWorkerStore, file: sqlite3.Connection) -> None:
    job = add(file, new_job())
    assert [claim(store).attempts for _ in range(3)] == [1, 2, 3]
    ended = claim(store)
    assert (ended.job_id, ended.state) == (job.job_id, JobState.FAILED)
    assert ended.error is not None
    assert ended.error.code == "worker_died"
    assert job.job_id in ended.error.detail
    assert "3 times" in ended.error.detail
    assert store.claim(NOON) is None


def test_a_requeued_job_loses_no_attempt(store: SqliteWorkerStore, file: sqlite3.Connection) -> None:
    add(file, new_job())
    for _ in range(10):
        job = claim(store)
        assert (job.state, job.attempts) == (JobState.RUNNING, 1)
        store.save(job.requeued())
    claim(store)
    (back,) = store.requeue_running()
    assert (back.state, back.attempts) == (JobState.QUEUED, 0)


def test_a_cancel_outlives_the_worker_that_did_not_see_it(
    store: SqliteWorkerStore, file: sqlite3.Connection
) -> None:
    job = add(file, new_job())
    claim(store)
    file.execute("UPDATE jobs SET cancel = ? WHERE job_id = ?", (CANCEL.model_dump_json(), job.job_id))
    assert store.cancel_requested(job.job_id)
    ended = claim(store)
    assert (ended.state, ended.error) == (JobState.CANCELLED, CANCEL)


def test_a_version_is_stored_once_and_only_after_its_predecessor(
    store: SqliteWorkerStore, file: sqlite3.Connection
) -> None:
    add(file, new_job())
    running = claim(store)
    following = running.progressed(Stage.TEXT, Progress())
    store.save(following)
    store.save(following)  # as after a commit whose outcome is unknown
    with pytest.raises(StorageError, match="changed under its holder"):
        store.save(running.progressed(Stage.DENOISE, Progress()))
    with pytest.raises(StorageError, match="changed under its holder"):
        store.save(new_job())
    versions = file.execute("SELECT version FROM events ORDER BY event_id").fetchall()
    assert versions == [(0,), (1,), (2,)]


def test_steps_are_deleted_first_then_the_job_its_events_and_its_key(
    store: SqliteWorkerStore, file: sqlite3.Connection
) -> None:
    job = add(file, new_job())
    add(file, new_job())
    file.execute("INSERT INTO idempotency VALUES ('k', 'f', ?)", (job.job_id,))
    store.save(claim(store).failed(CANCEL, NOON))
    week = timedelta(days=7)

    def left() -> tuple[int, int, int]:
        count = "SELECT (SELECT count(*) FROM jobs), (SELECT count(*) FROM events), (SELECT count(*) FROM idempotency)"
        jobs, events, keys = file.execute(count).fetchone()
        return jobs, events, keys

    assert store.sweep(NOON + RESUMABLE_FOR, week) == 0
    assert left() == (2, 4, 1)
    assert store.sweep(NOON + RESUMABLE_FOR + timedelta(seconds=1), week) == 0
    assert left() == (2, 2, 1)  # each job's newest version
    assert store.sweep(NOON + week + timedelta(seconds=1), week) == 1
    assert left() == (1, 1, 0)  # a waiting job never grows too old
