"""The job store on a real file, with the worker's desk on the same file."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from anime_studio.core.errors import (
    ConfigurationError,
    DiskFullError,
    IdempotencyConflictError,
    JobCancelledError,
    StorageError,
)
from anime_studio.core.jobs import Backlog, IdempotencyKey, JobRecord
from anime_studio.storage.job_feed import JobFeed
from anime_studio.storage.sqlite import prepare
from anime_studio.storage.sqlite_desk import SqliteDesk
from anime_studio.storage.sqlite_jobs import SqliteJobs
from common.schemas import JobState, Progress, Stage
from support.jobs import NOON, new_job

CANCEL = JobCancelledError("cancelled by its owner").problem("r_test")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "jobs.sqlite3"


@pytest.fixture
async def jobs(path: Path) -> AsyncIterator[SqliteJobs]:
    async with SqliteJobs(path) as jobs:
        yield jobs


@pytest.fixture
def desk(path: Path) -> Iterator[SqliteDesk]:
    prepare(path)
    desk = SqliteDesk(path, max_attempts=3)
    yield desk
    desk.close()


def step(job: JobRecord, number: int) -> JobRecord:
    return job.progressed(Stage.DENOISE, Progress(step=number, total_steps=3))


async def test_a_job_added_is_there_for_another_process(jobs: SqliteJobs, path: Path) -> None:
    job = await jobs.add(new_job("ünïcode 猫"), None)
    async with SqliteJobs(path) as other:
        assert await other.get(job.job_id) == job
    assert await jobs.get("j_" + "0" * 32) is None


async def test_every_commit_is_synced(jobs: SqliteJobs, desk: SqliteDesk) -> None:
    for connection in (jobs._connection(), desk._connection):
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


async def test_an_idempotency_key_keeps_one_job_however_many_ask_at_once(jobs: SqliteJobs) -> None:
    key = IdempotencyKey("k", "same body")
    kept = await asyncio.gather(*(jobs.add(new_job(), key) for _ in range(30)))
    assert len({job.job_id for job in kept}) == 1
    assert await jobs.backlog() == Backlog(queued=1, running=0)
    assert await jobs.find_idempotent(key) == kept[0]


async def test_a_key_with_another_body_is_refused_and_keeps_nothing(jobs: SqliteJobs) -> None:
    await jobs.add(new_job(), IdempotencyKey("k", "one"))
    with pytest.raises(IdempotencyConflictError, match="'k'"):
        await jobs.add(new_job(), IdempotencyKey("k", "two"))
    with pytest.raises(IdempotencyConflictError):
        await jobs.find_idempotent(IdempotencyKey("k", "two"))
    assert await jobs.backlog() == Backlog(queued=1, running=0)


async def test_positions_follow_the_order_of_acceptance(jobs: SqliteJobs, desk: SqliteDesk) -> None:
    first, second, third = [await jobs.add(new_job(), None) for _ in range(3)]
    assert [await jobs.queue_position(job) for job in (first, second, third)] == [0, 1, 2]
    running = desk.claim(NOON)
    assert running is not None
    assert running.job_id == first.job_id
    assert [await jobs.queue_position(job) for job in (running, second, third)] == [None, 0, 1]
    assert await jobs.backlog() == Backlog(queued=2, running=1)


async def test_cancelling_ends_a_queued_job_marks_a_running_one_and_leaves_a_final_one(
    jobs: SqliteJobs, desk: SqliteDesk
) -> None:
    running, queued = [await jobs.add(new_job(), None) for _ in range(2)]
    claimed = desk.claim(NOON)
    assert claimed is not None
    marked = await jobs.cancel(running.job_id, CANCEL, NOON)
    assert marked is not None
    assert marked.state is JobState.RUNNING
    assert desk.cancel_requested(running.job_id)
    assert not desk.cancel_requested(queued.job_id)

    ended = await jobs.cancel(queued.job_id, CANCEL, NOON)
    assert ended is not None
    assert (ended.state, ended.error) == (JobState.CANCELLED, CANCEL)
    assert await jobs.cancel(queued.job_id, CANCEL, NOON + timedelta(hours=1)) == ended
    assert await jobs.cancel("j_" + "0" * 32, CANCEL, NOON) is None


async def test_a_follower_sees_each_version_once_in_order_and_then_the_end(
    jobs: SqliteJobs, desk: SqliteDesk
) -> None:
    job = await jobs.add(new_job(), None)

    async def work() -> None:
        current = desk.claim(NOON)
        assert current is not None
        for number in range(1, 4):
            await asyncio.sleep(0.02)
            current = step(current, number)
            desk.save(current)
        desk.save(current.failed(CANCEL, NOON))

    working = asyncio.create_task(work())
    versions = [version.version async for version in jobs.changes(job.job_id, after=-1)]
    await working
    assert versions == [0, 1, 2, 3, 4, 5]
    assert [job.version async for job in jobs.changes(job.job_id, after=3)] == [4, 5]
    assert [job.version async for job in jobs.changes(job.job_id, after=5)] == []
    assert [job.version async for job in jobs.changes("j_" + "0" * 32, after=-1)] == []


async def test_two_hundred_followers_cost_the_queries_of_one(
    jobs: SqliteJobs, desk: SqliteDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await jobs.add(new_job(), None)
    looks, tells = 0, 0
    look, tell = jobs._feed._events_after, JobFeed._tell

    async def counted_look(event_id: int) -> object:
        nonlocal looks
        looks += 1
        return await look(event_id)

    def counted_tell(self: JobFeed, events: object) -> None:
        nonlocal tells
        tells += 1
        tell(self, events)  # type: ignore[arg-type]

    monkeypatch.setattr(jobs._feed, "_events_after", counted_look)
    monkeypatch.setattr(JobFeed, "_tell", counted_tell)

    async def follow() -> list[int]:
        return [version.version async for version in jobs.changes(job.job_id, after=-1)]

    followers = [asyncio.create_task(follow()) for _ in range(200)]
    while len(jobs._feed._inboxes.get(job.job_id, ())) < 200:
        await asyncio.sleep(0.01)
    claimed = desk.claim(NOON)
    assert claimed is not None
    desk.save(claimed.failed(CANCEL, NOON))
    assert await asyncio.gather(*followers) == [[0, 1, 2]] * 200
    looking = jobs._feed._looking
    assert looking is not None
    await asyncio.wait_for(looking, 180)  # nobody follows: nobody looks
    assert looks == tells  # one query for each look, whoever looks on


async def test_ending_streams_frees_whoever_waits(jobs: SqliteJobs) -> None:
    job = await jobs.add(new_job(), None)

    async def follow() -> list[int]:
        return [version.version async for version in jobs.changes(job.job_id, after=0)]

    waiting = asyncio.create_task(follow())
    while not jobs._feed._inboxes:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    assert not waiting.done()
    jobs.end_streams()
    assert await asyncio.wait_for(waiting, 180) == []
    assert await asyncio.wait_for(follow(), 180) == []


async def test_finished_jobs_are_listed_newest_first_and_channels_oldest_first(
    jobs: SqliteJobs, desk: SqliteDesk
) -> None:
    for minute in range(4):
        await jobs.add(new_job(str(minute), channel="tuesday-show-9f2c41d7"), None)
        claimed = desk.claim(NOON)
        assert claimed is not None
        ended = claimed.model_copy(
            update={
                "state": JobState.FAILED if minute == 2 else JobState.SUCCEEDED,
                "finished_at": NOON + timedelta(minutes=minute),
                "version": claimed.version + 1,
            }
        )
        desk.save(ended)
    finished = await jobs.finished_since(NOON + timedelta(minutes=1))
    assert [job.spec.prompt for job in finished] == ["3", "2", "1"]
    assert len(await jobs.finished_since(NOON, limit=2)) == 2
    clips = await jobs.channel_clips("tuesday-show-9f2c41d7", NOON)
    assert [job.spec.prompt for job in clips] == ["1", "3"]
    assert await jobs.channel_clips("another-show-0000000", NOON) == []


async def test_a_full_disk_is_named_and_the_job_does_not_exist(jobs: SqliteJobs) -> None:
    for _ in range(50):  # the limit is each connection's own
        await jobs._run(lambda connection: connection.execute("PRAGMA max_page_count = 1"))
    job = new_job("x" * 2000)
    with pytest.raises(DiskFullError, match=r"jobs\.sqlite3; free some space"):
        while True:  # until its page is full
            job = new_job("x" * 2000)
            await jobs.add(job, IdempotencyKey(job.job_id, "body"))
    assert await jobs.get(job.job_id) is None
    for _ in range(50):
        await jobs._run(lambda connection: connection.execute("PRAGMA max_page_count = 100000"))
    assert await jobs.add(job, None) == job


@pytest.mark.parametrize("spoil", ["header", "pages"])
async def test_a_damaged_file_is_named_and_left_alone(path: Path, spoil: str) -> None:
    async with SqliteJobs(path) as jobs:
        for _ in range(40):
            await jobs.add(new_job("x" * 500), None)
    spoiled = bytearray(path.read_bytes())
    start = 0 if spoil == "header" else 4096
    spoiled[start : start + 8192] = b"\x5a" * 8192
    path.write_bytes(spoiled)
    with pytest.raises(StorageError, match=rf"{path} is damaged .*mv {path}\* "):
        async with SqliteJobs(path):
            pass
    assert path.read_bytes() == spoiled


async def test_a_file_of_a_newer_program_is_refused(path: Path) -> None:
    async with SqliteJobs(path):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(ConfigurationError, match="newer anime-studio"):
        async with SqliteJobs(path):
            pass
