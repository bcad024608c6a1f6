"""One job from claimed to stored: the same code on a laptop and in Modal's GPU container.

It drives a renderer and saves each version of the job. It knows neither torch nor SQLite
nor Modal: those stand behind the ports of `core.ports`. A fault in a job ends that job, with
its reason; only a job whose end cannot be saved is left to the caller.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from anime_studio.core.decoders import Decoder
from anime_studio.core.errors import (
    AnimeStudioError,
    DeadlineExceededError,
    DiskFullError,
    EngineError,
    JobCancelledError,
    JobStoppedError,
    OutOfMemoryError,
    StorageError,
)
from anime_studio.core.eta import LastSpeeds
from anime_studio.core.jobs import JobRecord
from anime_studio.core.ports import ClipWriter, Clock, Renderer, WorkerStore
from anime_studio.core.pricing import Machine, receipt
from anime_studio.telemetry import LogEvent, log_job
from common.schemas import ClipSpec, Note, Stage, StartKind, Timings

_log = structlog.get_logger(__name__)


class RequeueError(JobStoppedError):
    """The worker stops; raised by the report so that the renderer returns."""


@dataclass(slots=True)
class JobRunner:
    """Runs jobs on one renderer, one at a time; what a job took improves the next one's ETA.

    Attributes:
        renderer: The engine.
        model_revision: Of its checkpoint; written into each job that it renders.
        decoder: What decodes; written into each job as well.
        machine: What the receipt bills.
        clock: For timestamps and deadlines.
        scratch: Folder for each job's own folder, which is removed whatever happens.
        log_prompts: Whether a job's log line has the prompt's text.
        stop_requested: Asked at each report; True requeues the job.
        ends_late_jobs: Whether a job past its deadline is ended here; on a laptop the server does that, by one clock.
        on_report: Called at each report, with what is rendered and the stage: a worker's sign of life.
        save_frames_every_s: While frames are decoded, progress is saved this often.
        retry_save_after_s: Waits between tries to save a job's end: a full disk often has room again soon.
        notes: Added to those of each clip.
        speeds: Of the last jobs that succeeded here.
    """

    renderer: Renderer
    model_revision: str
    machine: Machine
    clock: Clock
    scratch: Path
    decoder: Decoder = Decoder.FULL
    log_prompts: bool = False
    stop_requested: Callable[[], bool] = lambda: False
    ends_late_jobs: bool = True
    on_report: Callable[[ClipSpec, Stage], None] = lambda _spec, _stage: None
    save_frames_every_s: float = 0.25
    retry_save_after_s: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 5.0, 5.0)
    notes: tuple[Note, ...] = ()
    speeds: LastSpeeds = LastSpeeds()  # noqa: RUF009  frozen

    def run(
        self, job: JobRecord, store: WorkerStore, clips: ClipWriter, *, start_kind: StartKind, start_s: float
    ) -> JobRecord:
        """Render a claimed job and save its end.

        Args:
            job: As `JobRecord.claimed` left it, and saved.
            store: Where each version is saved and a cancel is seen.
            clips: Where the finished files go.
            start_kind: How the worker came to be ready for this job.
            start_s: Seconds that this took; on the job's receipt.

        Returns:
            The job, final and saved; or queued again, when the worker had to stop.

        Raises:
            StorageError: Its end could not be saved. The job stays as it was, for recovery.
        """
        served = {"model_revision": self.model_revision, "decoder": self.decoder}
        spec = job.spec.model_copy(update=served)
        run = _Run(self, job.model_copy(update={"spec": spec}), store, clips, start_kind, start_s)
        with structlog.contextvars.bound_contextvars(job_id=job.job_id, request_id=job.request_id):
            _log.info(LogEvent.JOB_STARTED, attempt=job.attempts, start_kind=start_kind)
            ended = run.render(self.scratch / job.job_id)
            stored = self._save_with_retry(store, ended)
            if not ended.state.final:
                _log.info(LogEvent.JOB_REQUEUED, stage=run.stage)
            elif stored:  # else whoever ended the job before has logged it
                log_job(ended, log_prompts=self.log_prompts)
        self.speeds = self.speeds.after(ended)
        return ended

    def _save_with_retry(self, store: WorkerStore, job: JobRecord) -> bool:
        for wait_s in (*self.retry_save_after_s, None):
            self.on_report(job.spec, Stage.STORE)
            try:
                return store.save(job)
            except StorageError as error:
                if wait_s is None:
                    _log.error(LogEvent.JOB_LEFT_FOR_RECOVERY, detail=error.detail)
                    raise
                _log.warning(LogEvent.JOB_END_DELAYED, detail=error.detail, again_in_s=wait_s)
                time.sleep(wait_s)
        raise AssertionError("the last try returns or raises")


@dataclass(slots=True)
class _Run:
    """One attempt at one job; the `Report` that its renderer is given."""

    runner: JobRunner
    job: JobRecord
    store: WorkerStore
    clips: ClipWriter
    start_kind: StartKind
    start_s: float
    stage: Stage = Stage.STARTING
    steps_done: int = 0
    saved_at: float = 0.0
    begun: dict[Stage, float] = field(default_factory=dict)
    give_up_at: float = float("inf")
    """The deadline by `time.monotonic`, so that a moved clock neither ends the job nor lets it go on."""

    def __post_init__(self) -> None:
        left_s = self.job.seconds_left(self.runner.clock.now())
        if left_s is not None and self.runner.ends_late_jobs:
            self.give_up_at = time.monotonic() + left_s

    def render(self, folder: Path) -> JobRecord:
        """Return how the job ended, not yet saved."""
        try:
            return self._render(folder)
        except RequeueError:
            return self.job.requeued()
        except JobCancelledError as error:
            return self._end(self.job.cancelled, error)
        except Exception as error:  # noqa: BLE001  one job's fault must not stop the worker
            return self._end(self.job.failed, self._as_studio_error(error))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def __call__(self, stage: Stage, step: int = 0, total_steps: int = 0) -> None:
        """See `core.ports.Report`."""
        now = time.monotonic()
        entered = stage not in self.begun
        if entered:
            self.begun[stage] = now
        self.stage = stage
        if stage is Stage.DENOISE:
            self.steps_done = step
        self.runner.on_report(self.job.spec, stage)
        self._stop_if_asked()
        if entered or stage is not Stage.DECODE or now - self.saved_at >= self.runner.save_frames_every_s:
            self.saved_at = now
            self._save_progress(stage, step / total_steps if total_steps else 0.0, now)

    def _render(self, folder: Path) -> JobRecord:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self(Stage.STARTING)
        rendered = self.runner.renderer.render(self.job.spec, folder, self)
        self(Stage.STORE)
        clip = self.clips.publish(self.job.clip_id, rendered)
        timings = self._timings(
            text_s=rendered.text_s,
            denoise_s=rendered.denoise_s,
            decode_s=rendered.decode_s,
            upscale_s=rendered.upscale_s,
        )
        cost = receipt(timings, self.runner.machine)
        now = self.runner.clock.now()
        notes = rendered.notes + self.runner.notes
        return self.job.succeeded(clip, timings, cost, now, notes=notes, paths=rendered.paths)

    def _end(self, move: Callable[..., JobRecord], error: AnimeStudioError) -> JobRecord:
        timings, now = self._timings(), self.runner.clock.now()
        return move(error.problem(self.job.request_id), now, timings, receipt(timings, self.runner.machine))

    def _stop_if_asked(self) -> None:
        job = self.job
        if self.runner.stop_requested():
            raise RequeueError(f"the worker stops; job {job.job_id} waits for the next one")
        if self._cancel_requested():
            raise JobCancelledError(f"job {job.job_id} was cancelled by its owner")
        if job.deadline_at is not None and time.monotonic() >= self.give_up_at:
            raise DeadlineExceededError(
                f"job {job.job_id} was not ready by its deadline ({job.deadline_at:%Y-%m-%dT%H:%M:%SZ}), "
                f"stopped at {self.stage}; ask with a longer deadline_s"
            )

    def _cancel_requested(self) -> bool:
        try:
            return self.store.cancel_requested(self.job.job_id)
        except StorageError as error:
            _log.warning(LogEvent.JOB_PROGRESS_LOST, detail=error.detail)
            return False

    def _save_progress(self, stage: Stage, done: float, now: float) -> None:
        first = self.begun.get(Stage.TEXT, now)
        speeds = self.runner.speeds.of(self.job.spec)
        progress = speeds.progress(self.job.spec, stage, done, step=self.steps_done, elapsed_s=now - first)
        following = self.job.progressed(stage, progress, self.start_kind)
        try:
            self.store.save(following)
        except StorageError as error:  # this progress is lost; the next save takes the same version
            _log.warning(LogEvent.JOB_PROGRESS_LOST, detail=error.detail)
        else:
            self.job = following

    def _timings(self, **measured_s: float | None) -> Timings:
        """Return the seconds of each stage that began, the last one until now; the renderer's own come first.

        The total is their sum with the wait: a clock that moved meanwhile does not change it.
        """
        begun = sorted(self.begun.items(), key=lambda entry: entry[1])
        ends = [moment for _, moment in begun[1:]] + [time.monotonic()]
        seconds = {f"{stage}_s": end - begin for (stage, begin), end in zip(begun, ends, strict=True)}
        seconds["start_s"] = self.start_s + seconds.pop(f"{Stage.STARTING}_s", 0.0)
        seconds |= {name: value for name, value in measured_s.items() if value is not None}
        seconds["total_s"] = (self.job.timings.queue_s or 0.0) + sum(seconds.values())
        return self.job.timings.model_copy(update={name: round(value, 6) for name, value in seconds.items()})

    def _as_studio_error(self, error: Exception) -> AnimeStudioError:
        if isinstance(error, AnimeStudioError):
            return error
        if isinstance(error, OSError) and error.errno in DiskFullError.errnos:
            return DiskFullError(
                f"no room to draw job {self.job.job_id} ({error.filename}); free some space and submit it again"
            )
        if isinstance(error, MemoryError):
            return OutOfMemoryError(
                f"job {self.job.job_id} needs more memory than this machine has; close something or draw a shorter clip"
            )
        _log.exception(LogEvent.JOB_ENGINE_CRASHED, stage=self.stage)
        return EngineError(
            f"job {self.job.job_id} failed at {self.stage}: {type(error).__name__}: {error}; "
            "the worker's log has the traceback"
        )
