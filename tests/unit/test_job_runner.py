"""One job from claimed to stored, with a renderer that does as the test says."""

import dataclasses
import errno
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from anime_studio.core.decoders import Decoder
from anime_studio.core.errors import BadFramesError, DeadlineExceededError, DiskFullError, StorageError
from anime_studio.core.jobs import JobRecord, RenderedClip
from anime_studio.core.ports import Report
from anime_studio.core.pricing import Machine
from anime_studio.job_runner import JobRunner
from anime_studio.on_laptop.clips import FolderClips
from anime_studio.on_laptop.database import connect, insert, prepare, update, writing
from anime_studio.on_laptop.worker_store import SqliteWorkerStore
from common.schemas import ClipSpec, JobState, Note, Stage, StartKind
from support.clips import render
from support.jobs import HandClock, new_job

L4 = Machine("L4", cpu_cores=2, memory_gib=16)
REVISION = "random-1"

Act = Callable[[], object]


class FakeRenderer:
    """Reports as the engine does and writes real files; *at* happens at the stage it names."""

    def __init__(self, at: dict[tuple[Stage, int], Act] | None = None) -> None:
        self.at = at or {}
        self.folder: Path | None = None
        self.spec: ClipSpec | None = None
        self.notes: tuple[Note, ...] = ()

    def render(self, spec: ClipSpec, folder: Path, report: Report) -> RenderedClip:
        self.spec, self.folder = spec, folder
        for stage, steps in (
            (Stage.TEXT, 0),
            (Stage.DENOISE, spec.num_inference_steps),
            (Stage.DECODE, spec.num_frames),
        ):
            for step in range(steps + 1):
                self.at.get((stage, step), lambda: None)()
                report(stage, step, steps)
        return dataclasses.replace(render(folder), notes=self.notes)


class StoreOnFullDisk(SqliteWorkerStore):
    """A real store that has no room for a job's end while `full`."""

    full, refused = True, 0

    def save(self, job: JobRecord) -> bool:
        if self.full and job.state.final:
            self.refused += 1
            raise DiskFullError("no room")
        return super().save(job)


class WorkerRig:
    """A claimed job in a real store, and what a worker needs to render it."""

    def __init__(self, folder: Path, store: type[SqliteWorkerStore] = SqliteWorkerStore, **changes: object):
        path = folder / "jobs.sqlite3"
        prepare(path)
        self.clock = HandClock()
        self.store = store(path, max_attempts=3)
        self.clips = FolderClips(folder / "clips")
        self.scratch = folder / "scratch"
        self.file = connect(path)
        with writing(self.file):
            insert(self.file, new_job(**changes))
        self.clock.advance(2)
        self.job = self.claim()

    def claim(self) -> JobRecord:
        claimed = self.store.claim(self.clock.now())
        assert claimed is not None
        return claimed

    def runner(self, at: dict[tuple[Stage, int], Act] | None = None, **changes: object) -> JobRunner:
        values = {"clock": self.clock, "scratch": self.scratch, "machine": L4, "model_revision": REVISION}
        return JobRunner(FakeRenderer(at), **(values | changes))  # type: ignore[arg-type]

    def run(self, at: dict[tuple[Stage, int], Act] | None = None, **changes: object) -> JobRecord:
        return self.run_with(self.runner(at, **changes))

    def run_with(self, runner: JobRunner) -> JobRecord:
        return runner.run(self.job, self.store, self.clips, start_kind=StartKind.COLD, start_s=1.5)

    def stored(self) -> list[JobRecord]:
        rows = self.file.execute("SELECT record FROM events ORDER BY version")
        return [JobRecord.model_validate_json(record) for (record,) in rows]


@pytest.fixture
def rig(tmp_path: Path) -> WorkerRig:
    return WorkerRig(tmp_path)


async def test_a_job_is_rendered_stored_timed_and_priced(rig: WorkerRig) -> None:
    ended = rig.run()
    assert ended == rig.stored()[-1]
    assert (ended.state, ended.start_kind, ended.stage) == (JobState.SUCCEEDED, StartKind.COLD, None)
    assert ended.clip is not None
    assert await rig.clips.find(ended.clip_id) == ended.clip
    timings = ended.timings
    assert timings.queue_s == 2.0
    assert (timings.text_s, timings.denoise_s, timings.decode_s) == (0.01, 0.3, 0.1)
    assert timings.start_s is not None
    assert timings.start_s >= 1.5
    assert timings.store_s is not None
    assert timings.total_s == pytest.approx(2.0 + 0.41 + timings.start_s + timings.store_s, abs=1e-5)
    assert ended.cost is not None
    assert ended.cost.usd == pytest.approx(
        L4.usd_per_s() * (0.41 + timings.start_s + timings.store_s), abs=1e-6
    )
    assert not rig.scratch.joinpath(ended.job_id).exists()


def test_the_record_names_the_checkpoint_that_rendered_it(rig: WorkerRig) -> None:
    runner = rig.runner()
    assert rig.job.spec.model_revision != REVISION
    assert rig.run_with(runner).spec.model_revision == REVISION
    assert isinstance(runner.renderer, FakeRenderer)
    assert runner.renderer.spec is not None
    assert runner.renderer.spec.model_revision == REVISION


def test_the_record_names_the_decoder_that_this_worker_has(rig: WorkerRig) -> None:
    assert rig.job.spec.decoder == "full"  # when it was submitted, perhaps to an earlier deployment
    assert rig.run(decoder=Decoder.TINY).spec.decoder == "tiny"


def test_the_notes_of_request_and_renderer_are_both_in_the_record(tmp_path: Path) -> None:
    asked = Note(code="unknown_words", detail="demo does not know: roof")
    rendered = Note(code="text_cut", detail="the prompt was cut")
    rig = WorkerRig(tmp_path, notes=(asked,))
    runner = rig.runner()
    assert isinstance(runner.renderer, FakeRenderer)
    runner.renderer.notes = (rendered,)
    assert rig.run_with(runner).notes == (asked, rendered)
    assert rig.stored()[-1].notes == (asked, rendered)


def test_every_real_step_is_saved_and_frames_only_now_and_then(rig: WorkerRig) -> None:
    rig.run(save_frames_every_s=3600.0)
    running = [job for job in rig.stored() if job.state is JobState.RUNNING]
    steps = [job.progress.step for job in running if job.stage is Stage.DENOISE]
    assert steps == [0, 1, 2, 3]
    assert len([job for job in running if job.stage is Stage.DECODE]) == 1  # its beginning
    fractions = [job.progress.fraction for job in running]
    assert fractions == sorted(fractions)
    assert fractions[-1] < 1.0
    assert list(dict.fromkeys(job.stage for job in running)) == list(Stage)


def test_one_log_line_describes_the_job_without_its_prompt(rig: WorkerRig) -> None:
    with capture_logs() as logs:
        ended = rig.run()
    (line,) = [entry for entry in logs if entry["event"] == "job.finished"]
    assert line["job_id"] == ended.job_id
    assert line["outcome"] == "succeeded"
    assert line["prompt_chars"] == len(ended.spec.prompt)
    assert ended.spec.prompt not in repr(logs)


@pytest.mark.parametrize("stage", [(Stage.TEXT, 0), (Stage.DENOISE, 2), (Stage.DECODE, 5)])
async def test_a_cancel_is_seen_at_the_next_report(rig: WorkerRig, stage: tuple[Stage, int]) -> None:
    ended = rig.run({stage: lambda: rig.file.execute("UPDATE jobs SET cancel = '{}'")})
    assert ended.state is JobState.CANCELLED
    assert ended.error is not None
    assert ended.error.code == "job_cancelled"
    assert rig.stored()[-1] == ended
    assert await rig.clips.find(ended.clip_id) is None
    assert ended.cost is not None


def test_a_passed_deadline_stops_the_job(tmp_path: Path) -> None:
    rig = WorkerRig(tmp_path, deadline_at=HandClock().advance(1))  # it is claimed after two seconds
    ended = rig.run()
    assert ended.state is JobState.FAILED
    assert ended.error is not None
    assert ended.error.code == DeadlineExceededError.code
    assert "stopped at starting" in ended.error.detail


@pytest.mark.parametrize("jump_s", [-600, -3600, 24 * 3600])
def test_a_clock_that_jumps_changes_neither_the_deadline_nor_the_timings(
    tmp_path: Path, jump_s: float
) -> None:
    rig = WorkerRig(tmp_path, deadline_at=HandClock().advance(3600))
    ended = rig.run({(Stage.DENOISE, 2): lambda: rig.clock.advance(jump_s)})
    assert ended.state is JobState.SUCCEEDED
    timings = ended.timings.model_dump(exclude_none=True)
    assert timings["total_s"] == pytest.approx(sum(timings.values()) - timings["total_s"], abs=1e-5)
    assert timings["total_s"] < 600


def test_a_job_that_ended_elsewhere_stops_at_its_next_report_and_keeps_that_end(rig: WorkerRig) -> None:
    def end() -> None:
        with writing(rig.file):
            update(rig.file, rig.stored()[-1].past_deadline(rig.clock.now()))

    with capture_logs() as logs:
        rig.run({(Stage.DENOISE, 2): end})
    stored = rig.stored()[-1]
    assert stored.error is not None
    assert (stored.state, stored.error.code) == (JobState.FAILED, "deadline_exceeded")
    assert "at denoise" in stored.error.detail
    assert "job.finished" not in [line["event"] for line in logs]  # whoever ended it has logged it


def test_each_report_is_a_sign_of_life_even_while_an_end_cannot_be_saved(tmp_path: Path) -> None:
    rig, beats = WorkerRig(tmp_path, StoreOnFullDisk), []
    with pytest.raises(DiskFullError):
        rig.run(on_report=lambda _, stage: beats.append(stage), retry_save_after_s=(0.0, 0.0))
    spec = rig.job.spec
    decoded = spec.num_frames + 1
    expected = [Stage.STARTING, Stage.TEXT, *[Stage.DENOISE] * (spec.num_inference_steps + 1)]
    assert beats == [*expected, *[Stage.DECODE] * decoded, *[Stage.STORE] * (1 + 3)]


def test_a_stopping_worker_requeues_the_job(rig: WorkerRig) -> None:
    ended = rig.run(stop_requested=lambda: True)
    assert (ended.state, ended.attempts, ended.stage) == (JobState.QUEUED, 0, None)
    assert rig.stored()[-1] == ended


def _raise(error: Exception) -> Act:
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
def test_a_fault_ends_the_job_with_its_reason(rig: WorkerRig, error: Exception, code: str) -> None:
    with capture_logs() as logs:
        ended = rig.run({(Stage.DENOISE, 2): _raise(error)})
    assert ended.state is JobState.FAILED
    assert ended.error is not None
    assert (ended.error.code, ended.error.request_id) == (code, "r_test")
    assert ended.timings.denoise_s is not None
    assert ended.timings.total_s is not None
    assert ended.timings.total_s > 2.0 + 1.5
    assert not rig.scratch.joinpath(ended.job_id).exists()
    (line,) = [entry for entry in logs if entry["event"] == "job.finished"]
    assert line["error_code"] == code


def test_lost_progress_does_not_stop_a_job(rig: WorkerRig) -> None:
    """No room for a while: steps are lost, the versions stay without a gap, the end is stored."""

    def full() -> None:
        rig.store._connection.execute("PRAGMA max_page_count = 1")

    def room() -> None:
        rig.store._connection.execute("PRAGMA max_page_count = 100000")

    for number in range(3):  # leave no free page
        with writing(rig.file):
            insert(rig.file, new_job(f"{number}" * 2000))
    with capture_logs() as logs:
        ended = rig.run({(Stage.TEXT, 0): full, (Stage.DECODE, 0): room})
    assert "job.progress_lost" in [entry["event"] for entry in logs]
    assert ended.state is JobState.SUCCEEDED
    versions = [job.version for job in rig.stored() if job.job_id == ended.job_id]
    assert versions == list(range(len(versions)))


def test_an_end_that_cannot_be_saved_leaves_the_job_for_recovery(tmp_path: Path) -> None:
    rig = WorkerRig(tmp_path, StoreOnFullDisk)
    assert isinstance(rig.store, StoreOnFullDisk)
    with capture_logs() as logs, pytest.raises(StorageError):
        rig.run(retry_save_after_s=(0.01, 0.01))
    assert rig.store.refused == 3
    assert logs[-1]["event"] == "job.left_for_recovery"

    rig.store.full = False
    first, rig.job = rig.job, rig.claim()
    assert (rig.job.job_id, rig.job.clip_id, rig.job.attempts) == (first.job_id, first.clip_id, 2)
    assert rig.run().state is JobState.SUCCEEDED


def test_the_second_job_expects_what_the_first_one_took(rig: WorkerRig) -> None:
    runner = rig.runner()
    spec = rig.job.spec
    assert runner.speeds.of(spec).progress(spec, Stage.TEXT, 0, step=0, elapsed_s=0).eta_s is None
    ended = rig.run_with(runner)
    begun = runner.speeds.of(spec).progress(spec, Stage.TEXT, 0, step=0, elapsed_s=0)
    whole_s = 0.01 + 0.3 + 0.1 + (ended.timings.store_s or 0)
    assert begun.eta_s == pytest.approx(whole_s, abs=0.01)
    halfway = runner.speeds.of(spec).progress(spec, Stage.DENOISE, 1 / 3, step=1, elapsed_s=10)
    assert halfway.fraction == pytest.approx(0.11 / whole_s, abs=1e-3)
    assert halfway.eta_s == pytest.approx(10 * (1 - halfway.fraction) / halfway.fraction, rel=0.01)


def test_a_job_without_a_clip_changes_no_expectation(rig: WorkerRig) -> None:
    runner = rig.runner({(Stage.TEXT, 0): _raise(BadFramesError("all black"))})
    before = runner.speeds
    rig.run_with(runner)
    assert runner.speeds is before
