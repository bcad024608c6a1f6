"""The job store on a real file, with the worker's store on the same file."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from anime_studio.core.errors import (
    ConfigurationError,
    DiskFullError,
    IdempotencyConflictError,
    JobCancelledError,
    QueueFullError,
    StorageError,
)
from anime_studio.core.jobs import Backlog, IdempotencyKey, JobRecord
from anime_studio.on_laptop.job_store import SqliteJobs
from anime_studio.on_laptop.worker_store import SqliteWorkerStore
from common.schemas import JobState, Progress, Stage
from support.jobs import NOON, new_job, succeeded

CANCEL = JobCancelledError("cancelled by its owner").problem("r_test")

CHANNEL = "tuesday-show-9f2c41d7"

FIRST_LAYOUT = """
CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, job_id TEXT NOT NULL UNIQUE, state TEXT NOT NULL,
    version INTEGER NOT NULL, channel TEXT, finished_at REAL, cancel TEXT, record TEXT NOT NULL
);
CREATE INDEX jobs_open ON jobs (state, seq) WHERE finished_at IS NULL;
CREATE INDEX jobs_finished ON jobs (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX jobs_of_channel ON jobs (channel, finished_at) WHERE channel IS NOT NULL;
CREATE TABLE events (
    event_id INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id TEXT NOT NULL REFERENCES jobs (job_id) ON DELETE CASCADE,
    version INTEGER NOT NULL, record TEXT NOT NULL, UNIQUE (job_id, version)
);
CREATE TABLE idempotency (
    key TEXT PRIMARY KEY, fingerprint TEXT NOT NULL,
    job_id TEXT NOT NULL REFERENCES jobs (job_id) ON DELETE CASCADE
);
CREATE INDEX idempotency_of_job ON idempotency (job_id);
PRAGMA user_version = 1;
"""
"""Of version 0.2.0."""


@pytest.fixture
async def jobs(path: Path) -> AsyncIterator[SqliteJobs]:
    async with SqliteJobs(path) as jobs:
        yield jobs


def step(job: JobRecord, number: int) -> JobRecord:
    return job.progressed(Stage.DENOISE, Progress(step=number, total_steps=3))


async def test_a_job_added_is_there_for_another_process(jobs: SqliteJobs, path: Path) -> None:
    job = await jobs.add(new_job("ünïcode 猫"), None)
    async with SqliteJobs(path) as other:
        assert await other.get(job.job_id) == job
    assert await jobs.get("j_" + "0" * 32) is None


async def test_every_commit_is_synced(jobs: SqliteJobs, store: SqliteWorkerStore) -> None:
    for connection in (jobs._connection(1.0), store._connection):
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


async def test_an_idempotency_key_stores_one_job_however_many_ask_at_once(jobs: SqliteJobs) -> None:
    key = IdempotencyKey("k", "same body")
    stored = await asyncio.gather(*(jobs.add(new_job(), key) for _ in range(30)))
    assert len({job.job_id for job in stored}) == 1
    assert await jobs.backlog() == Backlog(queued=1, running=0)
    assert await jobs.find_idempotent(key) == stored[0]


async def test_a_key_with_another_body_is_refused_and_stores_nothing(jobs: SqliteJobs) -> None:
    await jobs.add(new_job(), IdempotencyKey("k", "one"))
    with pytest.raises(IdempotencyConflictError, match="'k'"):
        await jobs.add(new_job(), IdempotencyKey("k", "two"))
    with pytest.raises(IdempotencyConflictError):
        await jobs.find_idempotent(IdempotencyKey("k", "two"))
    assert await jobs.backlog() == Backlog(queued=1, running=0)


async def test_positions_follow_the_order_of_acceptance(jobs: SqliteJobs, store: SqliteWorkerStore) -> None:
    first, second, third = [await jobs.add(new_job(), None) for _ in range(3)]
    assert [await jobs.queue_position(job) for job in (first, second, third)] == [0, 1, 2]
    running = store.claim(NOON)
    assert running is not None
    assert running.job_id == first.job_id
    assert [await jobs.queue_position(job) for job in (running, second, third)] == [None, 0, 1]
    assert await jobs.backlog() == Backlog(queued=2, running=1)


async def test_cancelling_ends_a_queued_job_marks_a_running_one_and_leaves_a_final_one(
    jobs: SqliteJobs, store: SqliteWorkerStore
) -> None:
    running, queued = [await jobs.add(new_job(), None) for _ in range(2)]
    claimed = store.claim(NOON)
    assert claimed is not None
    marked = await jobs.cancel(running.job_id, CANCEL, NOON)
    assert marked is not None
    assert marked.state is JobState.RUNNING
    assert store.cancel_requested(running.job_id)
    assert not store.cancel_requested(queued.job_id)

    ended = await jobs.cancel(queued.job_id, CANCEL, NOON)
    assert ended is not None
    assert (ended.state, ended.error) == (JobState.CANCELLED, CANCEL)
    assert await jobs.cancel(queued.job_id, CANCEL, NOON + timedelta(hours=1)) == ended
    assert await jobs.cancel("j_" + "0" * 32, CANCEL, NOON) is None


async def test_a_follower_sees_each_version_once_in_order_and_then_the_end(
    jobs: SqliteJobs, store: SqliteWorkerStore
) -> None:
    job = await jobs.add(new_job(), None)

    async def work() -> None:
        current = store.claim(NOON)
        assert current is not None
        for number in range(1, 4):
            await asyncio.sleep(0.02)
            current = step(current, number)
            store.save(current)
        store.save(current.failed(CANCEL, NOON))

    working = asyncio.create_task(work())
    versions = [version.version async for version in jobs.changes(job.job_id, after=-1)]
    await working
    assert versions == [0, 1, 2, 3, 4, 5]
    assert [job.version async for job in jobs.changes(job.job_id, after=3)] == [4, 5]
    assert [job.version async for job in jobs.changes(job.job_id, after=5)] == []
    assert [job.version async for job in jobs.changes("j_" + "0" * 32, after=-1)] == []


async def test_ending_streams_frees_whoever_waits(jobs: SqliteJobs) -> None:
    job = await jobs.add(new_job(), None)

    async def follow() -> list[int]:
        return [version.version async for version in jobs.changes(job.job_id, after=0)]

    waiting = asyncio.create_task(follow())
    while not jobs.feed.followers:
        await asyncio.sleep(0.01)
    jobs.feed.close()
    assert await asyncio.wait_for(waiting, 120) == []
    assert await asyncio.wait_for(follow(), 120) == []


async def test_finished_jobs_are_listed_newest_first_and_channels_oldest_first(
    jobs: SqliteJobs, store: SqliteWorkerStore
) -> None:
    for minute in range(4):
        await jobs.add(new_job(str(minute), channel="tuesday-show-9f2c41d7"), None)
        claimed = store.claim(NOON)
        assert claimed is not None
        ended = claimed.model_copy(
            update={
                "state": JobState.FAILED if minute == 2 else JobState.SUCCEEDED,
                "finished_at": NOON + timedelta(minutes=minute),
                "version": claimed.version + 1,
            }
        )
        store.save(ended)
    finished = await jobs.finished_since(NOON + timedelta(minutes=1))
    assert [job.spec.prompt for job in finished] == ["3", "2", "1"]
    assert len(await jobs.finished_since(NOON, limit=2)) == 2
    page = await jobs.channel_clips("tuesday-show-9f2c41d7", None)
    assert [clip.job.spec.prompt for clip in page.clips] == ["0", "1", "3"]
    assert not page.more
    page = await jobs.channel_clips("tuesday-show-9f2c41d7", page.clips[0].sequence, limit=1)
    assert ([clip.job.spec.prompt for clip in page.clips], page.more) == (["1"], True)
    page = await jobs.channel_clips("tuesday-show-9f2c41d7", page.next_after, limit=2)
    assert ([clip.job.spec.prompt for clip in page.clips], page.more) == (["3"], False)
    assert (await jobs.channel_clips("another-show-0000000", 0)).clips == []


async def test_the_order_of_ends_is_that_of_the_commits_whatever_the_clock_says(
    jobs: SqliteJobs, store: SqliteWorkerStore
) -> None:
    for prompt, hours in (("first", 0), ("clock back", -1), ("clock ahead", 24), ("right again", 0)):
        await jobs.add(new_job(prompt), None)
        claimed = store.claim(NOON)
        assert claimed is not None
        store.save(claimed.failed(CANCEL, NOON + timedelta(hours=hours)))
    ended = await jobs.ended_after(0)
    assert [one.job.spec.prompt for one in ended] == ["first", "clock back", "clock ahead", "right again"]
    assert [one.job for one in await jobs.ended_after(ended[2].sequence)] == [ended[3].job]
    assert await jobs.newest_sequence() == ended[3].sequence
    assert [job.spec.prompt for job in await jobs.finished_since(None, limit=1)] == ["right again"]


def finish(store: SqliteWorkerStore) -> JobRecord:
    claimed = store.claim(NOON)
    assert claimed is not None
    ended = succeeded(claimed)
    assert store.save(ended)
    return ended


async def shown_on(jobs: SqliteJobs, after: int | None = None) -> list[str]:
    return [clip.job.spec.prompt for clip in (await jobs.channel_clips(CHANNEL, after)).clips]


async def test_a_held_clip_comes_to_its_channel_when_it_is_shown_and_as_the_newest(
    jobs: SqliteJobs, store: SqliteWorkerStore
) -> None:
    held, _ = await jobs.add(new_job("held", channel=CHANNEL, hold=True), None), finish(store)
    await jobs.add(new_job("free", channel=CHANNEL), None)
    finish(store)
    page = await jobs.channel_clips(CHANNEL, None)
    assert [clip.job.spec.prompt for clip in page.clips] == ["free"]
    assert await jobs.show.hidden([held]) == {held.clip_id}
    for _ in range(2):  # the second time changes nothing
        await jobs.show.show(held, NOON, even_hidden=False)
    newer = await jobs.channel_clips(CHANNEL, page.next_after)
    assert [clip.job.spec.prompt for clip in newer.clips] == ["held"]
    assert (await jobs.channel_clips(CHANNEL, newer.next_after)).clips == []
    assert await shown_on(jobs) == ["free", "held"]
    later = await jobs.add(new_job("next", channel=CHANNEL), None)
    assert finish(store).job_id == later.job_id
    assert await shown_on(jobs, newer.next_after) == ["next"]


async def test_a_clip_may_be_shown_before_it_is_there(jobs: SqliteJobs, store: SqliteWorkerStore) -> None:
    held = await jobs.add(new_job("early", channel=CHANNEL, hold=True), None)
    await jobs.show.show(held, NOON, even_hidden=False)
    assert await shown_on(jobs) == []
    finish(store)
    assert await shown_on(jobs) == ["early"]


async def test_what_the_operator_hid_only_the_operator_shows_again(
    jobs: SqliteJobs, store: SqliteWorkerStore
) -> None:
    await jobs.add(new_job("bad", channel=CHANNEL), None)
    ended = finish(store)
    page = await jobs.channel_clips(CHANNEL, None)
    await jobs.show.hide(ended)
    await jobs.show.show(ended, NOON, even_hidden=False)
    assert await shown_on(jobs) == []
    assert await jobs.show.hidden_on(CHANNEL) == [ended.clip_id]
    assert await jobs.show.hidden_on("another-show-0000000") == []
    await jobs.show.show(ended, NOON, even_hidden=True)
    assert await shown_on(jobs, page.next_after) == ["bad"]
    assert await jobs.show.hidden_on(CHANNEL) == []


async def test_a_pause_outlives_the_process(jobs: SqliteJobs, path: Path) -> None:
    assert not await jobs.show.paused()
    await jobs.show.pause(paused=True)
    async with SqliteJobs(path) as other:
        assert await other.show.paused()
        await other.show.pause(paused=False)
    assert not await jobs.show.paused()


async def test_a_job_is_found_by_its_clip_once_it_has_ended(
    jobs: SqliteJobs, store: SqliteWorkerStore
) -> None:
    job = await jobs.add(new_job(), None)
    assert await jobs.of_clip(job.clip_id) is None
    assert finish(store) == await jobs.of_clip(job.clip_id)
    assert await jobs.of_clip("c_" + "0" * 32) is None


async def test_numbers_are_not_used_again_after_a_sweep(jobs: SqliteJobs, store: SqliteWorkerStore) -> None:
    for prompt in ("swept", "new"):
        await jobs.add(new_job(prompt), None)
        claimed = store.claim(NOON)
        assert claimed is not None
        store.save(claimed.failed(CANCEL, NOON))
        if prompt == "swept":
            (swept,) = await jobs.ended_after(0)
            assert store.sweep(NOON + timedelta(days=8), timedelta(days=7)) == 1
    (new,) = await jobs.ended_after(swept.sequence)
    assert new.job.spec.prompt == "new"


async def test_a_database_of_the_first_layout_is_migrated_with_its_order(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite3"
    ended = [new_job(prompt).failed(CANCEL, NOON) for prompt in ("one", "two")]
    with sqlite3.connect(path) as old:
        old.executescript(FIRST_LAYOUT)
        for job in [ended[0], new_job("still open"), ended[1]]:
            finished_at = NOON.timestamp() if job.state.final else None
            record = job.model_dump_json()
            old.execute(
                "INSERT INTO jobs (job_id, state, version, channel, finished_at, record) VALUES (?, ?, ?, ?, ?, ?)",
                (job.job_id, job.state, job.version, None, finished_at, record),
            )
            old.execute(
                "INSERT INTO events (job_id, version, record) VALUES (?, ?, ?)",
                (job.job_id, job.version, record),
            )
    old.close()
    async with SqliteJobs(path) as jobs:
        assert [one.job for one in await jobs.ended_after(0)] == ended
        assert [one.sequence for one in await jobs.ended_after(0)] == [1, 3]
        assert await jobs.backlog() == Backlog(queued=1, running=0)
        assert await jobs.of_clip(ended[1].clip_id) == ended[1]
        assert await jobs.show.hidden(ended) == set()


async def test_a_full_disk_is_named_and_the_job_does_not_exist(jobs: SqliteJobs) -> None:
    # The limit is each connection's own.
    await jobs.write_with(lambda connection: connection.execute("PRAGMA max_page_count = 1"))
    job = new_job("x" * 2000)
    with pytest.raises(DiskFullError, match=r"jobs\.sqlite3; free some space"):
        while True:  # until its page is full
            job = new_job("x" * 2000)
            await jobs.add(job, IdempotencyKey(job.job_id, "body"))
    assert await jobs.get(job.job_id) is None
    await jobs.write_with(lambda connection: connection.execute("PRAGMA max_page_count = 100000"))
    assert await jobs.add(job, None) == job


@pytest.mark.parametrize("part", ["header", "pages"])
async def test_a_damaged_file_is_named_and_left_alone(path: Path, part: str) -> None:
    async with SqliteJobs(path) as jobs:
        for _ in range(40):
            await jobs.add(new_job("x" * 500), None)
    damaged = bytearray(path.read_bytes())
    start = 0 if part == "header" else 4096
    damaged[start : start + 8192] = b"\x5a" * 8192
    path.write_bytes(damaged)
    with pytest.raises(StorageError, match=rf"{path} is damaged .*mv {path}\* "):
        async with SqliteJobs(path):
            pass
    assert path.read_bytes() == damaged


async def test_a_file_of_a_newer_program_is_refused(path: Path) -> None:
    async with SqliteJobs(path):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(ConfigurationError, match="newer anime-studio"):
        async with SqliteJobs(path):
            pass


async def test_two_hundred_at_once_never_pass_the_bound_of_the_queue(jobs: SqliteJobs) -> None:
    async def add() -> bool:
        try:
            await jobs.add(new_job(), None, max_queued=32)
        except QueueFullError:
            return False
        return True

    assert sum(await asyncio.gather(*(add() for _ in range(200)))) == 32
    assert await jobs.backlog() == Backlog(queued=32, running=0)


async def test_an_earlier_job_is_found_again_in_a_full_queue(jobs: SqliteJobs) -> None:
    key = IdempotencyKey("k", "body")
    job = await jobs.add(new_job(), key, max_queued=1)
    assert await jobs.add(new_job(), key, max_queued=1) == job


async def test_reads_go_on_while_another_process_holds_the_database(path: Path) -> None:
    async with SqliteJobs(path, writes_wait_s=0.5) as jobs:
        job = await jobs.add(new_job(), None)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        writes = [asyncio.create_task(jobs.add(new_job(), None)) for _ in range(20)]
        await asyncio.sleep(0)
        for _ in range(20):
            assert await jobs.get(job.job_id) == job
        assert not all(write.done() for write in writes)
        refused = await asyncio.gather(*writes, return_exceptions=True)
        assert all(isinstance(error, StorageError) for error in refused)
        other.execute("ROLLBACK")
        other.close()
        assert await jobs.backlog() == Backlog(queued=1, running=0)  # what was refused is not there
        await jobs.add(new_job(), None)


async def test_a_long_queue_of_writes_of_its_own_is_no_lock_of_another_process(path: Path) -> None:
    async with SqliteJobs(path, writes_wait_s=0.5) as jobs:
        await asyncio.gather(*(jobs.add(new_job(), None) for _ in range(2000)))
        assert await jobs.backlog() == Backlog(queued=2000, running=0)


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
async def test_a_database_whose_files_are_deleted_acknowledges_nothing_more(
    jobs: SqliteJobs, path: Path, suffix: str
) -> None:
    await jobs.add(new_job(), None)
    jobs.require_its_files()
    path.with_name(path.name + suffix).unlink()
    with pytest.raises(StorageError, match="was deleted or replaced"):
        await jobs.add(new_job(), None)
    with pytest.raises(StorageError, match="restart the server"):
        jobs.require_its_files()
