"""The worker process of the crash tests: the real one, with places where it waits to be killed.

Run as a script instead of `anime_studio.on_laptop.worker_process`. The folder named by
CRASH_DIR holds the plan: while the file `at` names a place, the worker that reaches the place
writes its process id to `waiting` and waits.
"""

import os
import select
from pathlib import Path

from anime_studio.checkpoints.store import Checkpoint
from anime_studio.core.jobs import JobRecord, RenderedClip, StoredClip
from anime_studio.core.ports import Report
from anime_studio.core.recipes import Recipe
from anime_studio.on_laptop.clips import FolderClips
from anime_studio.on_laptop.worker_process import SupervisorPipe, load_engine, main
from anime_studio.on_laptop.worker_store import SqliteWorkerStore
from anime_studio.settings import Settings
from common.schemas import ClipSpec, JobState, Stage

CRASH_DIR = Path(os.environ["CRASH_DIR"])


def is_planned(place: str) -> bool:
    try:
        return (CRASH_DIR / "at").read_text() == place
    except FileNotFoundError:  # the test may delete it at any moment
        return False


def wait_if_planned(place: str) -> None:
    if is_planned(place):
        partial = CRASH_DIR / "waiting.partial"
        partial.write_text(str(os.getpid()))
        partial.rename(CRASH_DIR / "waiting")
        while is_planned(place):
            select.select([], [], [], 0.01)  # libfaketime 0.9.10 breaks `time.sleep` while it moves the clock


class StoppableEngine:
    """The engine, with a place before it starts, at its text, in its steps and in its frames."""

    def __init__(self, recipe: Recipe, checkpoint: Checkpoint, settings: Settings) -> None:
        self._engine = load_engine(recipe, checkpoint, settings)

    def encode_ahead(self, spec: ClipSpec) -> None:
        self._engine.encode_ahead(spec)

    def render(self, spec: ClipSpec, folder: Path, report: Report) -> RenderedClip:
        def stopping_report(stage: Stage, step: int = 0, total_steps: int = 0) -> None:
            report(stage, step, total_steps)
            if stage is Stage.TEXT or step == (1 if stage is Stage.DENOISE else 5):
                wait_if_planned(stage.value)

        wait_if_planned("starting")
        return self._engine.render(spec, folder, stopping_report)


def stop_in_store() -> None:
    """Add two places: before the sidecar of a clip is written, and before the job's end is saved."""
    write, save = FolderClips._write_sidecar, SqliteWorkerStore.save

    def stopping_write(self: FolderClips, clip: StoredClip) -> None:
        wait_if_planned("store")
        write(self, clip)

    def stopping_save(self: SqliteWorkerStore, job: JobRecord) -> None:
        if job.state is JobState.SUCCEEDED:
            wait_if_planned("stored")
        save(self, job)

    FolderClips._write_sidecar = stopping_write  # type: ignore[method-assign]
    SqliteWorkerStore.save = stopping_save  # type: ignore[method-assign]


def report_stopping() -> None:
    """Write the file `stopping` once the worker knows that it must stop."""
    stop = SupervisorPipe._stop_within

    def reporting_stop(self: SupervisorPipe, seconds: float) -> None:
        stop(self, seconds)
        (CRASH_DIR / "stopping").touch()

    SupervisorPipe._stop_within = reporting_stop  # type: ignore[method-assign]


if __name__ == "__main__":
    stop_in_store()
    report_stopping()
    main(StoppableEngine)
