"""The worker process of the crash tests: the real one, with places where it waits to be killed.

Run as a script in the place of `anime_studio.local.worker_process`. The folder named by
CRASH_DIR holds the plan: while the file `at` names a place, the worker that comes there
writes its process id to `waiting` and goes no further.
"""

import os
import time
from pathlib import Path

from anime_studio.core.jobs import JobRecord, RenderedClip, Report, StoredClip
from anime_studio.core.recipes import Recipe
from anime_studio.local.worker_process import Pipes, _load_engine, main
from anime_studio.settings import Settings
from anime_studio.storage.folder_clips import FolderClips
from anime_studio.storage.sqlite_desk import SqliteDesk
from common.schemas import ClipSpec, JobState, Stage

CRASH_DIR = Path(os.environ["CRASH_DIR"])


def wait_if_planned(place: str) -> None:
    at = CRASH_DIR / "at"
    if at.exists() and at.read_text() == place:
        partial = CRASH_DIR / "waiting.partial"
        partial.write_text(str(os.getpid()))
        partial.rename(CRASH_DIR / "waiting")
        while at.exists() and at.read_text() == place:
            time.sleep(0.01)


class StoppableEngine:
    """The engine, with a place before it starts, at its text, in its steps and in its frames."""

    def __init__(self, recipe: Recipe, folder: Path, settings: Settings) -> None:
        self._engine = _load_engine(recipe, folder, settings)
        self.start_kind = self._engine.start_kind

    def render(self, spec: ClipSpec, folder: Path, report: Report) -> RenderedClip:
        def stopping_report(stage: Stage, step: int = 0, total_steps: int = 0) -> None:
            report(stage, step, total_steps)
            if stage is Stage.TEXT or step == (1 if stage is Stage.DENOISE else 5):
                wait_if_planned(stage.value)

        wait_if_planned("starting")
        return self._engine.render(spec, folder, stopping_report)


def stop_in_store() -> None:
    """Add two places: both files lie there and their sidecar does not; the clip is stored and nobody was told."""
    commit, save = FolderClips._commit, SqliteDesk.save

    def stopping_commit(self: FolderClips, clip: StoredClip) -> None:
        wait_if_planned("store")
        commit(self, clip)

    def stopping_save(self: SqliteDesk, job: JobRecord) -> None:
        if job.state is JobState.SUCCEEDED:
            wait_if_planned("stored")
        save(self, job)

    FolderClips._commit = stopping_commit  # type: ignore[method-assign]
    SqliteDesk.save = stopping_save  # type: ignore[method-assign]


def tell_when_stopping() -> None:
    """Write the file `stopping` once the worker knows that it must stop."""
    stop = Pipes._stop_within

    def telling_stop(self: Pipes, seconds: float) -> None:
        stop(self, seconds)
        (CRASH_DIR / "stopping").touch()

    Pipes._stop_within = telling_stop  # type: ignore[method-assign]


if __name__ == "__main__":
    stop_in_store()
    tell_when_stopping()
    main(StoppableEngine)
