"""Jobs in `modal.Dict` through the real client: web and GPU container on the same keys, and what becomes of calls."""

import asyncio
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import modal
import pytest
from grpclib import Status

from anime_studio.core.errors import IdempotencyConflictError, JobCancelledError, StorageError
from anime_studio.core.jobs import Backlog, IdempotencyKey, JobRecord
from anime_studio.on_modal.dicts import JobDicts
from anime_studio.on_modal.job_store import ModalJobs
from anime_studio.on_modal.worker_store import ModalWorkerStore
from common.schemas import JobState, Progress, Stage
from support.jobs import HandClock, new_job, succeeded
from support.modal_plane import ControlPlane, DeployedApp

KEY = IdempotencyKey("show-0042", "a" * 64)

pytestmark = pytest.mark.modal


@pytest.fixture
def plane(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    with control_plane.client():
        yield control_plane


@pytest.fixture
def dicts(plane: ControlPlane) -> JobDicts:
    names = ("jobs", "ended", "keys", "show")
    return JobDicts(*(modal.Dict.from_name(name, create_if_missing=True) for name in names))


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def ended_here() -> list[JobRecord]:
    return []


@pytest.fixture
def jobs(dicts: JobDicts, clock: HandClock, ended_here: list[JobRecord]) -> ModalJobs:
    return store(dicts, clock, ended_here)


def store(
    dicts: JobDicts, clock: HandClock, ended_here: list[JobRecord], list_every_s: float = 0.0
) -> ModalJobs:
    async def backlog() -> Backlog:
        return Backlog(queued=3, running=1)

    return ModalJobs(
        dicts, clock=clock, backlog=backlog, on_ended=ended_here.append, list_waiting_every_s=list_every_s
    )


def worker_store(
    dicts: JobDicts, clock: HandClock, call_id: str = "fc-1", max_attempts: int = 3
) -> ModalWorkerStore:
    return ModalWorkerStore(dicts, call_id, clock=clock, max_attempts=max_attempts)


def cancelled(job: JobRecord):
    return JobCancelledError(f"job {job.job_id} was cancelled by its owner").problem("r_test")


async def in_thread(work, *args):
    """The worker_store is used in a container's main thread, where no event loop runs."""
    return await asyncio.to_thread(work, *args)


async def until(look, what: str):
    end = time.monotonic() + 100
    while time.monotonic() < end:
        if found := await look():
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(f"waited in vain for {what}")


async def test_a_job_goes_from_submitted_to_rendered_and_every_side_sees_the_same(
    jobs: ModalJobs, dicts: JobDicts, clock: HandClock, ended_here: list[JobRecord]
):
    job = new_job()
    assert await jobs.add(job, None) == job
    assert await jobs.get(job.job_id) == job
    with worker_store(dicts, clock) as gpu:
        claimed = await in_thread(gpu.claim, job)
        assert claimed is not None and claimed.attempts == 1
        assert await jobs.get(job.job_id) == claimed
        step = claimed.progressed(Stage.DENOISE, Progress(step=2, total_steps=3, fraction=0.5))
        await in_thread(gpu.save, step)
        await until(lambda: _is(jobs, step), "the step to be published")
        final = succeeded(step, clock.now())
        await in_thread(gpu.save, final)
    assert await jobs.get(job.job_id) == final
    assert await store(dicts, clock, []).get(job.job_id) == final, "in another web container"
    assert [key async for key in dicts.jobs.keys.aio()] == [], "what ended leaves nothing behind"
    assert ended_here == [], "its GPU container logs it"


async def _is(jobs: ModalJobs, job: JobRecord) -> bool:
    return await jobs.get(job.job_id) == job


async def test_an_idempotency_key_makes_one_job_among_many_at_once(
    jobs: ModalJobs, dicts: JobDicts, clock: HandClock
):
    stores = [store(dicts, clock, []) for _ in range(5)]
    stored = await asyncio.gather(*(each.add(new_job(), KEY) for each in stores))
    assert len({job.job_id for job in stored}) == 1
    assert len([key async for key in dicts.jobs.keys.aio()]) == 1, "the others took theirs back"
    with pytest.raises(IdempotencyConflictError):
        await jobs.find_idempotent(IdempotencyKey(KEY.key, "b" * 64))


async def test_a_key_whose_job_was_forgotten_serves_a_new_one(jobs: ModalJobs, dicts: JobDicts):
    first = await jobs.add(new_job(), KEY)
    await dicts.jobs.clear.aio()
    second = await jobs.add(new_job(), KEY)
    assert second.job_id != first.job_id and await jobs.find_idempotent(KEY) == second


async def test_a_queued_job_is_cancelled_at_once_and_never_rendered(
    jobs: ModalJobs, dicts: JobDicts, clock: HandClock, ended_here: list[JobRecord]
):
    job = await jobs.add(new_job(), None)
    after = await jobs.cancel(job.job_id, cancelled(job), clock.now())
    assert after is not None and after.state is JobState.CANCELLED and ended_here == [after]
    with worker_store(dicts, clock) as gpu:
        taken = await in_thread(gpu.claim, job)
    assert taken == after, "the container that takes it finds it ended"
    assert await jobs.cancel("j_" + "0" * 32, cancelled(job), clock.now()) is None


async def test_a_running_job_hears_of_its_cancel_and_the_first_end_stands(
    jobs: ModalJobs, dicts: JobDicts, clock: HandClock
):
    job = await jobs.add(new_job(), None)
    with worker_store(dicts, clock) as gpu:
        claimed = await in_thread(gpu.claim, job)
        assert claimed is not None and not gpu.cancel_requested(job.job_id)
        still = await jobs.cancel(job.job_id, cancelled(job), clock.now())
        assert still is not None and still.state is JobState.RUNNING

        async def heard() -> bool:
            return gpu.cancel_requested(job.job_id)

        await until(heard, "the mark to be seen")
        await in_thread(gpu.save, claimed.cancelled(cancelled(job), clock.now()))
    ended = await jobs.get(job.job_id)
    assert ended is not None and ended.state is JobState.CANCELLED
    assert await jobs.end(succeeded(claimed, clock.now())) == ended, "a final job never changes again"


async def test_a_job_taken_away_is_claimed_again_by_its_own_call_and_by_no_other(
    jobs: ModalJobs, dicts: JobDicts, clock: HandClock
):
    job = await jobs.add(new_job(), None)
    with worker_store(dicts, clock, "fc-1") as first:
        await in_thread(first.claim, job)
    with worker_store(dicts, clock, "fc-2") as other:
        assert await in_thread(other.claim, job) is None
    with worker_store(dicts, clock, "fc-1") as again:
        claimed = await in_thread(again.claim, job)
        assert claimed is not None and (claimed.attempts, claimed.version) == (2, 2)


async def test_a_job_that_outlives_too_many_containers_is_ended(
    jobs: ModalJobs, dicts: JobDicts, clock: HandClock
):
    job = await jobs.add(new_job(), None)
    for _ in range(2):
        with worker_store(dicts, clock, max_attempts=2) as gpu:
            claimed = await in_thread(gpu.claim, job)
            assert claimed is not None and not claimed.state.final
    with worker_store(dicts, clock, max_attempts=2) as gpu:
        ended = await in_thread(gpu.claim, job)
    assert ended is not None and ended.error is not None and ended.error.code == "worker_died"
    assert await jobs.get(job.job_id) == ended


async def test_changes_yield_each_state_and_end_with_the_end(
    jobs: ModalJobs, dicts: JobDicts, clock: HandClock
):
    job = await jobs.add(new_job(), None)
    states = []
    with worker_store(dicts, clock) as gpu:
        async for newer in jobs.changes(
            job.job_id, after=-1
        ):  # of versions between two polls, the newest comes
            states.append(newer.state)
            if newer.state is JobState.QUEUED:
                assert await in_thread(gpu.claim, job) is not None
            elif newer.state is JobState.RUNNING:
                await in_thread(gpu.save, succeeded(newer, clock.now()))
    assert states == [JobState.QUEUED, JobState.RUNNING, JobState.SUCCEEDED]


async def test_an_end_that_a_web_container_wrote_reaches_a_caller_that_has_seen_more_versions(
    jobs: ModalJobs, clock: HandClock
):
    job = await jobs.add(new_job(), None)
    await jobs.end(job.failed(cancelled(job), clock.now()))
    (ended,) = [job async for job in jobs.changes(job.job_id, after=9)]
    assert ended.state.final and ended.version == 10


async def test_a_held_clip_is_shown_as_the_newest_and_a_hidden_one_only_by_the_operator(
    jobs: ModalJobs, dicts: JobDicts, clock: HandClock
):
    channel, ended = "channel-of-the-show-0", {}
    for prompt, hold in (("held", True), ("free", False)):
        job = await jobs.add(new_job(prompt, created_at=clock.advance(1), channel=channel, hold=hold), None)
        with worker_store(dicts, clock) as gpu:
            claimed = await in_thread(gpu.claim, job)
            ended[prompt] = succeeded(claimed, clock.now())
            await in_thread(gpu.save, ended[prompt])

    async def shown(after: int | None = None) -> list[str]:
        page = await jobs.channel_clips(channel, after)
        return [clip.job.spec.prompt for clip in page.clips if after is None or clip.sequence > after]

    assert await shown() == ["free"]
    assert await jobs.show.hidden(list(ended.values())) == {ended["held"].clip_id}
    newest = (await jobs.channel_clips(channel, None)).clips[-1].sequence
    clock.advance(60)
    for _ in range(2):
        await jobs.show.show(ended["held"], clock.advance(1), even_hidden=False)
    assert await shown(newest) == ["held"]
    assert await shown() == ["free", "held"]
    await jobs.show.hide(ended["held"])
    await jobs.show.show(ended["held"], clock.now(), even_hidden=False)
    assert await shown() == ["free"]
    assert await jobs.show.hidden_on(channel) == [ended["held"].clip_id]
    other = store(dicts, clock, [])
    assert await other.show.hidden_on(channel) == [ended["held"].clip_id], "every web container knows"
    await other.show.show(ended["held"], clock.advance(1), even_hidden=True)
    assert await shown() == ["free", "held"]
    assert await jobs.of_clip(ended["free"].clip_id) == ended["free"]
    assert await jobs.of_clip("c_" + "0" * 32) is None


async def test_a_pause_and_the_days_costs_are_kept(jobs: ModalJobs, dicts: JobDicts, clock: HandClock):
    await jobs.show.pause(paused=True)
    assert await store(dicts, clock, []).show.paused()
    await jobs.show.note_spent({"2026-10-01": 1.0, "2026-11-22": 0.5}, oldest_day="2026-11-01")
    await jobs.show.note_spent({"2026-11-22": 0.2, "2026-11-23": 0.1}, oldest_day="2026-11-01")
    assert await jobs.show.spent_before() == {"2026-11-22": 0.5, "2026-11-23": 0.1}


async def test_lists_hold_ended_jobs_and_queue_positions_those_that_wait(
    jobs: ModalJobs, dicts: JobDicts, clock: HandClock
):
    waiting = []
    for number in range(3):
        waiting.append(
            await jobs.add(
                new_job(created_at=clock.advance(1), channel=f"channel-of-the-show-{number}"), None
            )
        )
    assert [await jobs.queue_position(job) for job in waiting] == [0, 1, 2]
    with worker_store(dicts, clock) as gpu:
        claimed = await in_thread(gpu.claim, waiting[0])
        assert claimed is not None
        assert [await jobs.queue_position(job) for job in (claimed, *waiting[1:])] == [None, 0, 1]
        clock.advance(10)
        final = succeeded(claimed, clock.now())
        await in_thread(gpu.save, final)
    assert await jobs.finished_since(clock.now() - timedelta(seconds=5)) == [final]
    assert await jobs.finished_since(clock.now() + timedelta(seconds=1)) == []
    page = await jobs.channel_clips("channel-of-the-show-0", None)
    assert [clip.job for clip in page.clips] == [final]
    assert (await jobs.channel_clips("channel-of-the-show-1", None)).clips == []
    newest = page.clips[0].sequence
    assert (await jobs.channel_clips("channel-of-the-show-0", newest)).clips == []
    assert page.next_after < newest, "an end is stored after its time: the next read looks back"
    assert (await jobs.channel_clips("channel-of-the-show-0", page.next_after)).clips == page.clips
    assert [ended.job for ended in await jobs.ended_after(newest)] == [final]
    assert await jobs.ended_after(await jobs.newest_sequence()) == []
    assert await jobs.backlog() == Backlog(queued=3, running=1), "Modal counts the inputs"


async def test_followers_of_a_waiting_job_list_the_queue_once(
    plane: ControlPlane, dicts: JobDicts, clock: HandClock
):
    jobs = store(dicts, clock, [], list_every_s=600)
    job = await jobs.add(new_job(), None)
    await dicts.ended.update.aio({f"j_{number:032x}": {} for number in range(5000)})
    before = len(plane.traffic.log)
    assert await asyncio.gather(*(jobs.queue_position(job) for _ in range(50))) == [0] * 50
    assert plane.traffic.log[before:].count("DictContents") == 1, "for fifty looks, with 5,000 ended jobs"


async def test_the_cleaner_forgets_old_jobs_and_ends_those_never_launched(
    jobs: ModalJobs, dicts: JobDicts, clock: HandClock
):
    orphan, launched = await jobs.add(new_job(), None), await jobs.add(new_job(), None)
    await jobs.note_call(launched.job_id, "fc-unknown")
    done = await jobs.add(new_job(), None)
    with worker_store(dicts, clock) as gpu:
        claimed = await in_thread(gpu.claim, done)
        assert claimed is not None
        await in_thread(gpu.save, succeeded(claimed, clock.now()))
    clock.advance(16 * 60)
    assert await jobs.sweep(timedelta(days=7)) == []
    ended = await store(dicts, clock, []).get(orphan.job_id)
    assert (
        ended is not None and ended.error is not None and "never given to a container" in ended.error.detail
    )
    assert launched.job_id in {key.partition(":")[2] async for key in dicts.jobs.keys.aio()}
    assert done.job_id not in {key.partition(":")[2] async for key in dicts.jobs.keys.aio()}
    clock.advance(8 * 24 * 3600)
    assert sorted(await jobs.sweep(timedelta(days=7))) == sorted([orphan.job_id, done.job_id])
    assert await store(dicts, clock, []).get(done.job_id) is None


async def test_a_dict_that_cannot_be_reached_is_an_error_and_never_a_missing_job(
    plane: ControlPlane, jobs: ModalJobs, dicts: JobDicts, clock: HandClock
):
    job = await jobs.add(new_job(), None)
    plane.fail_next("DictGet", Status.INTERNAL, times=20)
    with pytest.raises(StorageError, match=job.job_id):
        await jobs.get(job.job_id)
    plane.traffic.faults.clear()
    plane.fail_next("DictUpdate", Status.INTERNAL, times=20)
    with pytest.raises(StorageError, match="of Modal's Dict jobs"):
        await jobs.add(new_job(), None)
    plane.fail_next("DictContents", Status.INTERNAL, times=20)
    with pytest.raises(StorageError, match="of Modal's Dict jobs"):
        await jobs.queue_position(job)


async def test_progress_that_cannot_be_published_is_lost_and_the_end_is_not(
    plane: ControlPlane, jobs: ModalJobs, dicts: JobDicts, clock: HandClock
):
    job = await jobs.add(new_job(), None)
    with worker_store(dicts, clock) as gpu:
        claimed = await in_thread(gpu.claim, job)
        assert claimed is not None
        plane.fail_next("DictUpdate", Status.INTERNAL, times=4)
        await in_thread(gpu.save, claimed.progressed(Stage.TEXT, Progress()))
        await until(lambda: _used_up(plane), "the faults to be met")
        await in_thread(gpu.save, succeeded(claimed, clock.now()))
    ended = await jobs.get(job.job_id)
    assert ended is not None and ended.state is JobState.SUCCEEDED


async def _used_up(plane: ControlPlane) -> bool:
    return not plane.traffic.faults.get("DictUpdate")


CALLS = """
import os, time
import modal
app = modal.App("calls")
image = modal.Image.debian_slim(python_version="3.12")
@app.function(image=image, timeout=2)
def slow(what: str): time.sleep(600)
@app.function(image=image)
def run(what: str):
    if what == "raise": raise KeyError("boom")
    if what == "die": os._exit(1)
    return {}
"""


@pytest.fixture
async def calls(plane: ControlPlane, tmp_path: Path, private_root: None) -> DeployedApp:
    (tmp_path / "calls.py").write_text(CALLS)
    await asyncio.to_thread(plane.deploy, "calls.py", cwd=tmp_path)
    return plane.app("calls")


@pytest.mark.parametrize(
    ("what", "trouble", "state", "why"),
    [
        ("slow", None, JobState.FAILED, "over its time limit"),
        ("raise", None, JobState.FAILED, "KeyError"),
        ("die", None, JobState.FAILED, "lost the container"),
        ("wait", "lose", JobState.FAILED, "lost the container"),
        ("wait", "expire", JobState.FAILED, "no longer stored"),
        ("wait", "cancel", JobState.FAILED, "somebody may have stopped the call there"),
        ("wait", "crash", JobState.FAILED, "container exited rc=137"),
        ("wait", "owner", JobState.CANCELLED, "cancelled by its owner"),
    ],
)
async def test_a_call_that_ends_without_a_word_ends_its_job_with_the_reason(
    plane: ControlPlane, jobs: ModalJobs, dicts: JobDicts, calls: DeployedApp,
    what: str, trouble: str | None, state: JobState, why: str,
):  # fmt: skip
    plane.settings.autoscale = False
    name = "slow" if what == "slow" else "run"
    job = await jobs.add(new_job(), None)
    spawned = await modal.Function.from_name("calls", name).spawn.aio(what)
    await jobs.note_call(job.job_id, spawned.object_id)
    before = await jobs.get(job.job_id)
    assert before is not None and not before.state.final, "pending is not an end"
    if trouble is None:
        plane.settings.autoscale = True
        await asyncio.to_thread(plane.start_container, calls.function(name))
    elif trouble == "lose":
        await asyncio.to_thread(plane.lose, spawned.object_id)
    elif trouble == "crash":
        await asyncio.to_thread(plane.crash, spawned.object_id, "container exited rc=137")
    elif trouble == "expire":
        await asyncio.to_thread(plane.expire, spawned.object_id)
    else:
        if trouble == "owner":
            await dicts.jobs.put.aio(f"cancel:{job.job_id}", cancelled(job).model_dump(mode="json"))
        await spawned.cancel.aio()

    async def ended() -> JobRecord | None:
        newest = await jobs.get(job.job_id)
        return newest if newest is not None and newest.state.final else None

    final = await until(ended, "the job's end")
    assert final.state is state and why in final.error.detail
    assert await ended() == final
