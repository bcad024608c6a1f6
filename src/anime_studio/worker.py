"""One job from claimed to stored: the same function on a laptop and in Modal's GPU container.

It drives a renderer and tells the job's desk what happens. It knows neither torch nor
SQLite nor Modal: those stand behind the ports of `core.jobs`. Whatever goes wrong in a
job ends that job, with its reason; only a record that cannot be kept is the caller's.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

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
from anime_studio.core.jobs import ClipWriter, Clock, JobDesk, JobRecord, Renderer
from anime_studio.core.pricing import Machine, receipt
from anime_studio.pace import FIRST_PACE, Pace
from anime_studio.telemetry import (
    JOB_END_DELAYED,
    JOB_ENGINE_CRASHED,
    JOB_HANDED_BACK,
    JOB_LEFT_FOR_RECOVERY,
    JOB_PROGRESS_LOST,
    JOB_STARTED,
    log_job,
)
from common.schemas import Stage, StartKind, Timings

SAVE_FRAMES_EVERY_S: Final = 0.25
SAVE_AGAIN_AFTER_S: Final = (0.1, 0.3, 1.0, 3.0, 5.0, 5.0)
"""Waits between tries to keep a job's end: a full disk often has room again soon."""

_log = structlog.get_logger(__name__)


class HandBackError(JobStoppedError):
    """The worker stops; raised by the report so that the renderer lets go of the job."""


def run_job(
    job: JobRecord,
    *,
    renderer: Renderer,
    desk: JobDesk,
    clips: ClipWriter,
    machine: Machine,
    clock: Clock,
    scratch: Path,
    pace: Pace = FIRST_PACE,
    stop_requested: Callable[[], bool] = lambda: False,
    start_s: float = 0.0,
    log_prompts: bool = False,
) -> JobRecord:
    """Draw a claimed job and keep its end.

    Args:
        job: As `JobRecord.claimed` left it, and kept.
        renderer: The engine.
        desk: Where each version is kept and a cancel is seen.
        clips: Where the finished files go.
        machine: What the receipt bills.
        clock: For timestamps and the deadline.
        scratch: Folder for the job's own folder, which is removed whatever happens.
        pace: How fast the last job went on this worker; see `Pace.of`.
        stop_requested: Asked at each report; True hands the job back.
        start_s: Seconds that the worker was made ready for this job; on its receipt.
        log_prompts: Whether the job's line has the prompt's text.

    Returns:
        The job, final and kept; or queued again, when the worker had to stop.

    Raises:
        StorageError: Its end could not be kept. The job stays as it was, for recovery.
    """
    with structlog.contextvars.bound_contextvars(job_id=job.job_id, request_id=job.request_id):
        run = _Run(
            job, renderer, desk, clips, machine, clock, pace, stop_requested, start_s, renderer.start_kind
        )
        _log.info(JOB_STARTED, attempt=job.attempts, start_kind=run.start_kind)
        ended = run.draw(scratch / job.job_id)
        _save_patiently(desk, ended)
        if ended.state.final:
            log_job(ended, log_prompts=log_prompts)
        else:
            _log.info(JOB_HANDED_BACK, stage=run.stage)
    return ended


@dataclass(slots=True)
class _Run:
    """One attempt at one job; the `Report` that its renderer is given."""

    job: JobRecord
    renderer: Renderer
    desk: JobDesk
    clips: ClipWriter
    machine: Machine
    clock: Clock
    pace: Pace
    stop_requested: Callable[[], bool]
    start_s: float
    start_kind: StartKind
    stage: Stage = Stage.STARTING
    steps_done: int = 0
    saved_at: float = 0.0
    begun: dict[Stage, float] = field(default_factory=dict)

    def draw(self, folder: Path) -> JobRecord:
        """Return how the job ended, not yet kept."""
        try:
            return self._draw(folder)
        except HandBackError:
            return self.job.handed_back()
        except JobCancelledError as error:
            timings = self._timings()
            return self.job.cancelled(
                error.problem(self.job.request_id), self.clock.now(), timings, receipt(timings, self.machine)
            )
        except Exception as error:  # noqa: BLE001  one job's fault must not take the worker down
            timings = self._timings()
            return self.job.failed(
                self._known(error).problem(self.job.request_id),
                self.clock.now(),
                timings,
                receipt(timings, self.machine),
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def __call__(self, stage: Stage, step: int = 0, total_steps: int = 0) -> None:
        """See `core.jobs.Report`."""
        now = time.monotonic()
        entered = stage not in self.begun
        if entered:
            self.begun[stage] = now
        self.stage = stage
        if stage is Stage.DENOISE:
            self.steps_done = step
        self._stop_if_asked()
        if entered or stage is not Stage.DECODE or now - self.saved_at >= SAVE_FRAMES_EVERY_S:
            self.saved_at = now
            self._save_progress(stage, step / total_steps if total_steps else 0.0, now)

    def _draw(self, folder: Path) -> JobRecord:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self(Stage.STARTING)
        self.renderer.start_kind = StartKind.WARM  # for its next job
        rendered = self.renderer.render(self.job.spec, folder, self)
        self(Stage.STORE)
        clip = self.clips.publish(self.job.clip_id, rendered)
        measured = self._timings()
        now = self.clock.now()
        timings = measured.model_copy(
            update={
                "text_s": round(rendered.text_s, 6),
                "denoise_s": round(rendered.denoise_s, 6),
                "decode_s": round(rendered.decode_s, 6),
                "total_s": max(0.0, (now - self.job.created_at).total_seconds()),
            }
        )
        return self.job.succeeded(clip, timings, receipt(timings, self.machine), now)

    def _stop_if_asked(self) -> None:
        job = self.job
        if self.stop_requested():
            raise HandBackError(f"the worker stops; job {job.job_id} waits for the next one")
        if self._cancel_requested():
            raise JobCancelledError(f"job {job.job_id} was cancelled by its owner")
        if job.deadline_at is not None and self.clock.now() >= job.deadline_at:
            raise DeadlineExceededError(
                f"job {job.job_id} was not ready by its deadline ({job.deadline_at:%Y-%m-%dT%H:%M:%SZ}), "
                f"stopped at {self.stage}; ask with a longer deadline_s"
            )

    def _cancel_requested(self) -> bool:
        try:
            return self.desk.cancel_requested(self.job.job_id)
        except StorageError as error:
            _log.warning(JOB_PROGRESS_LOST, detail=error.detail)
            return False

    def _save_progress(self, stage: Stage, done: float, now: float) -> None:
        first = self.begun.get(Stage.TEXT, now)
        progress = self.pace.progress(self.job.spec, stage, done, step=self.steps_done, elapsed_s=now - first)
        following = self.job.progressed(stage, progress, self.start_kind)
        try:
            self.desk.save(following)
        except StorageError as error:  # only this news is lost: the next save takes the same version
            _log.warning(JOB_PROGRESS_LOST, detail=error.detail)
        else:
            self.job = following

    def _timings(self) -> Timings:
        """Return the seconds of each stage that began, the last one until now."""
        begun = sorted(self.begun.items(), key=lambda entry: entry[1])
        ends = [moment for _, moment in begun[1:]] + [time.monotonic()]
        seconds = {
            _FIELDS[stage]: round(end - begin, 6) for (stage, begin), end in zip(begun, ends, strict=True)
        }
        seconds["start_s"] = round(self.start_s + seconds.get("start_s", 0.0), 6)
        return self.job.timings.model_copy(update=seconds)

    def _known(self, error: Exception) -> AnimeStudioError:
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
        _log.exception(JOB_ENGINE_CRASHED, stage=self.stage)
        return EngineError(
            f"job {self.job.job_id} failed at {self.stage}: {type(error).__name__}: {error}; "
            "the worker's log has the traceback"
        )


_FIELDS: Final = {
    Stage.STARTING: "start_s",
    Stage.TEXT: "text_s",
    Stage.DENOISE: "denoise_s",
    Stage.DECODE: "decode_s",
    Stage.STORE: "store_s",
}


def _save_patiently(desk: JobDesk, job: JobRecord) -> None:
    for wait_s in SAVE_AGAIN_AFTER_S:
        try:
            return desk.save(job)
        except StorageError as error:
            _log.warning(JOB_END_DELAYED, detail=error.detail, again_in_s=wait_s)
            time.sleep(wait_s)
    try:
        return desk.save(job)
    except StorageError as error:
        _log.error(JOB_LEFT_FOR_RECOVERY, detail=error.detail)
        raise
