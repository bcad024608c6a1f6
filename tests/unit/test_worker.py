"""One job from claimed to stored, with a renderer that does as the test says."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from anime_studio import worker
from anime_studio.core.errors import BadFramesError, DeadlineExceededError, DiskFullError, StorageError
from anime_studio.core.jobs import JobRecord, RenderedClip, Report
from anime_studio.core.pricing import Machine
from anime_studio.storage.folder_clips import FolderClips
from anime_studio.storage.sqlite import connect, insert, prepare, writing
from anime_studio.storage.sqlite_desk import SqliteDesk
from anime_studio.worker import run_job
from common.schemas import ClipSpec, JobState, Stage, StartKind
from support.clips import render
from support.jobs import HandClock, new_job

L4 = Machine("L4", cpu_cores=2, memory_gib=16)


class PlayedRenderer:
    """Reports as the engine does and writes real files; *at* happens at the stage it names."""

    def __init__(self, at: dict[tuple[Stage, int], Callable[[], None]] | None = None) -> None:
        self.start_kind = StartKind.COLD
        self.at = at or {}
        self.folder: Path | None = None

    def render(self, spec: ClipSpec, folder: Path, report: Report) -> RenderedClip:
        self.folder = folder
        for stage, steps in (
            (Stage.TEXT, 0),
            (Stage.DENOISE, spec.num_inference_steps),
            (Stage.DECODE, spec.num_frames),
        ):
            for step in range(steps + 1):
                self.at.get((stage, step), lambda: None)()
                report(stage, step, steps)
        return render(folder)


class Shop:
    """A claimed job in a real store, and what a worker needs to draw it."""

    def __init__(self, folder: Path, **changes: object) -> None:
        self.path = folder / "jobs.sqlite3"
        prepare(self.path)
        self.clock = HandClock()
        self.desk = SqliteDesk(self.path, max_attempts=3)
        self.clips = FolderClips(folder / "clips")
        self.scratch = folder / "scratch"
        self.file = connect(self.path)
        job = new_job(**changes)
        with writing(self.file):
            insert(self.file, job)
        claimed = self.desk.claim(self.clock.advance(2))
        assert claimed is not None
        self.job = claimed

    def run(self, renderer: PlayedRenderer, *, stop: bool = False) -> JobRecord:
        return run_job(
            self.job,
            renderer=renderer,
            desk=self.desk,
            clips=self.clips,
            machine=L4,
            clock=self.clock,
            scratch=self.scratch,
            stop_requested=lambda: stop,
        )

    def kept(self) -> list[JobRecord]:
        rows = self.file.execute("SELECT record FROM events ORDER BY version")
        return [JobRecord.model_validate_json(record) for (record,) in rows]


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


async def test_a_job_is_drawn_stored_timed_and_priced(shop: Shop) -> None:
    renderer = PlayedRenderer({(Stage.DECODE, 0): lambda: shop.clock.advance(3) and None})
    ended = shop.run(renderer)
    assert ended == shop.kept()[-1]
    assert (ended.state, ended.start_kind, ended.stage) == (JobState.SUCCEEDED, StartKind.COLD, None)
    assert renderer.start_kind is StartKind.WARM
    assert ended.clip is not None
    assert await shop.clips.find(ended.clip_id) == ended.clip
    timings = ended.timings
    assert (timings.queue_s, timings.total_s) == (2.0, 5.0)
    assert (timings.text_s, timings.denoise_s, timings.decode_s) == (0.01, 0.3, 0.1)
    assert timings.start_s is not None
    assert timings.store_s is not None
    assert ended.cost is not None
    assert ended.cost.usd == pytest.approx(
        L4.usd_per_s() * (0.41 + timings.start_s + timings.store_s), abs=1e-6
    )
    assert not shop.scratch.joinpath(ended.job_id).exists()


def test_every_real_step_is_kept_and_frames_only_now_and_then(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "SAVE_FRAMES_EVERY_S", 3600.0)
    shop.run(PlayedRenderer())
    running = [job for job in shop.kept() if job.state is JobState.RUNNING]
    steps = [job.progress.step for job in running if job.stage is Stage.DENOISE]
    assert steps == [0, 1, 2, 3]
    assert len([job for job in running if job.stage is Stage.DECODE]) == 1  # its beginning
    fractions = [job.progress.fraction for job in running]
    assert fractions == sorted(fractions)
    assert fractions[-1] < 1.0
    assert list(dict.fromkeys(job.stage for job in running)) == list(Stage)


def test_one_line_tells_the_whole_job_without_its_prompt(shop: Shop) -> None:
    with capture_logs() as logs:
        ended = shop.run(PlayedRenderer())
    (line,) = [entry for entry in logs if entry["event"] == "job.finished"]
    assert line["job_id"] == ended.job_id
    assert line["outcome"] == "succeeded"
    assert line["prompt_chars"] == len(ended.spec.prompt)
    assert ended.spec.prompt not in repr(logs)


@pytest.mark.parametrize("stage", [(Stage.TEXT, 0), (Stage.DENOISE, 2), (Stage.DECODE, 5)])
async def test_a_cancel_is_seen_at_the_next_report(shop: Shop, stage: tuple[Stage, int]) -> None:
    def cancel() -> None:
        shop.file.execute("UPDATE jobs SET cancel = '{}'")

    ended = shop.run(PlayedRenderer({stage: cancel}))
    assert ended.state is JobState.CANCELLED
    assert ended.error is not None
    assert ended.error.code == "job_cancelled"
    assert shop.kept()[-1] == ended
    assert await shop.clips.find(ended.clip_id) is None
    assert ended.cost is not None


def test_a_passed_deadline_stops_the_job(tmp_path: Path) -> None:
    clock = HandClock()
    shop = Shop(tmp_path, deadline_at=clock.advance(60))
    ended = shop.run(PlayedRenderer({(Stage.DENOISE, 2): lambda: shop.clock.advance(60) and None}))
    assert ended.state is JobState.FAILED
    assert ended.error is not None
    assert ended.error.code == DeadlineExceededError.code
    assert "stopped at denoise" in ended.error.detail


def test_a_stopping_worker_hands_the_job_back(shop: Shop) -> None:
    ended = shop.run(PlayedRenderer(), stop=True)
    assert (ended.state, ended.attempts, ended.stage) == (JobState.QUEUED, 0, None)
    assert shop.kept()[-1] == ended


def _raise(error: Exception) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BadFramesError("all black"), "frames_invalid"),
        (ZeroDivisionError("division by zero"), "engine_failed"),
        (MemoryError(), "out_of_memory"),
        (OSError(errno.ENOSPC, "No space left on device", "clip.mp4"), "disk_full"),
        (OSError(errno.EIO, "Input/output error"), "engine_failed"),
    ],
)
def test_a_fault_ends_the_job_with_its_reason(shop: Shop, error: Exception, code: str) -> None:
    renderer = PlayedRenderer({(Stage.DENOISE, 2): _raise(error)})
    with capture_logs() as logs:
        ended = shop.run(renderer)
    assert ended.state is JobState.FAILED
    assert ended.error is not None
    assert (ended.error.code, ended.error.request_id) == (code, "r_test")
    assert ended.timings.denoise_s is not None
    assert ended.timings.total_s == 2.0
    assert renderer.folder is not None
    assert not renderer.folder.exists()
    (line,) = [entry for entry in logs if entry["event"] == "job.finished"]
    assert line["error_code"] == code


def test_lost_progress_does_not_stop_a_job(shop: Shop) -> None:
    """No room for a while: steps are lost, the versions stay without a gap, the end is kept."""

    def full() -> None:
        shop.desk._connection.execute("PRAGMA max_page_count = 1")

    def room() -> None:
        shop.desk._connection.execute("PRAGMA max_page_count = 100000")

    for number in range(3):  # leave no free page
        with writing(shop.file):
            insert(shop.file, new_job(f"{number}" * 2000))
    with capture_logs() as logs:
        ended = shop.run(PlayedRenderer({(Stage.TEXT, 0): full, (Stage.DECODE, 0): room}))
    assert "job.progress_lost" in [entry["event"] for entry in logs]
    assert ended.state is JobState.SUCCEEDED
    kept = [job.version for job in shop.kept() if job.job_id == ended.job_id]
    assert kept == list(range(len(kept)))


def test_an_end_that_cannot_be_kept_leaves_the_job_for_recovery(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "SAVE_AGAIN_AFTER_S", (0.01, 0.01))
    save, tries = shop.desk.save, 0

    def full(job: JobRecord) -> None:
        nonlocal tries
        if job.state.final:
            tries += 1
            raise DiskFullError("no room")
        save(job)

    monkeypatch.setattr(shop.desk, "save", full)
    with capture_logs() as logs, pytest.raises(StorageError):
        shop.run(PlayedRenderer())
    assert tries == 3
    assert logs[-1]["event"] == "job.left_for_recovery"
    monkeypatch.undo()
    again = shop.desk.claim(shop.clock.now())
    assert again is not None
    assert (again.job_id, again.clip_id, again.attempts) == (shop.job.job_id, shop.job.clip_id, 2)
    shop.job = again
    assert shop.run(PlayedRenderer()).state is JobState.SUCCEEDED


def test_the_second_job_expects_what_the_first_one_took(shop: Shop) -> None:
    from anime_studio.pace import FIRST_PACE, Pace

    ended = shop.run(PlayedRenderer())
    pace = Pace.of(ended)
    assert pace is not None
    spec = ended.spec
    begun = pace.progress(spec, Stage.TEXT, 0, step=0, elapsed_s=0)
    whole_s = 0.01 + 0.3 + 0.1 + (ended.timings.store_s or 0)
    assert begun.eta_s == pytest.approx(whole_s, abs=0.01)
    halfway = pace.progress(spec, Stage.DENOISE, 1 / 3, step=1, elapsed_s=10)
    assert halfway.fraction == pytest.approx(0.11 / whole_s, abs=1e-3)
    assert halfway.eta_s == pytest.approx(10 * (1 - halfway.fraction) / halfway.fraction, rel=0.01)
    assert FIRST_PACE.progress(spec, Stage.TEXT, 0, step=0, elapsed_s=0).eta_s is None
    assert Pace.of(new_job()) is None
