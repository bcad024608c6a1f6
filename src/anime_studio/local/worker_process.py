"""The worker process of a laptop: loads the engine, then draws one job after another.

Started by `supervisor`, never by hand. It says how it is on standard output, so that the
server answers `/ready` truly while torch is imported here. It goes when it is told to
(SIGTERM) or when its server is gone (standard input ends), and hands its job back.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from io import FileIO
from pathlib import Path
from typing import Final

import structlog

from anime_studio.core.clock import SystemClock
from anime_studio.core.errors import AnimeStudioError, StorageError, WeightsMissingError
from anime_studio.core.jobs import Renderer
from anime_studio.core.pricing import UNBILLED
from anime_studio.core.recipes import Recipe, get_recipe
from anime_studio.local.data_dir import DataDir
from anime_studio.local.status import WorkerStatus
from anime_studio.pace import FIRST_PACE, Pace
from anime_studio.prepared import locate_or_name_all
from anime_studio.settings import Settings
from anime_studio.storage.folder_clips import FolderClips, Retention
from anime_studio.storage.sqlite_desk import SqliteDesk
from anime_studio.telemetry import JOBS_SWEPT, configure_logging, log_job
from anime_studio.weights import Checkpoint
from anime_studio.worker import run_job

LOOK_FOR_WORK_EVERY_S: Final = 0.25
"""Only a fallback: the server pokes the worker for each job."""
LOOK_FOR_WEIGHTS_EVERY_S: Final = 3.0
AFTER_STORAGE_ERROR_S: Final = 1.0
KEEP_HOUSE_EVERY_S: Final = 60.0

_log = structlog.get_logger(__name__)

Say = Callable[[WorkerStatus], None]
LoadRenderer = Callable[[Recipe, Path, Settings], Renderer]


class Pipes:
    """Both ends of the talk with the server: its pokes and its end, our status."""

    def __init__(self) -> None:
        # Unbuffered: a thread that waits in a buffer's lock keeps the interpreter from ending.
        self._pokes = FileIO(0, closefd=False)
        self._poked = threading.Event()
        self._stop_at: float | None = None
        self._holding_nothing = True
        # Libraries print to standard output at times: that goes to the log, the pipe is ours.
        self._status = FileIO(os.dup(1), "wb")
        os.dup2(2, 1)

    def read_settings(self) -> Settings:
        """Read the first line; from then on listen for pokes and for the server's end."""
        settings = Settings.model_validate_json(self._pokes.readline())
        threading.Thread(target=self._listen, name="server-listener", daemon=True).start()
        return settings

    def say(self, status: WorkerStatus) -> None:
        """Tell the server how we are."""
        with contextlib.suppress(BrokenPipeError):  # the server is gone: the listener sees it too
            self._status.write(status.model_dump_json().encode() + b"\n")

    def begin_work(self, drain_s: float) -> None:
        """From now on SIGTERM means: finish what you hold within *drain_s*. Until now it just ends the process."""
        signal.signal(signal.SIGTERM, lambda *_: self._stop_within(drain_s))
        self._holding_nothing = False

    def wait_for_poke(self, timeout_s: float) -> None:
        """Sleep until there may be work."""
        self._poked.wait(timeout_s)
        self._poked.clear()

    @property
    def stopping(self) -> bool:
        """Whether no new job may be taken."""
        return self._stop_at is not None

    def stop_now(self) -> bool:
        """Whether the job in hand must be handed back."""
        return self._stop_at is not None and time.monotonic() >= self._stop_at

    def _stop_within(self, seconds: float) -> None:
        self._stop_at = min(self._stop_at or float("inf"), time.monotonic() + seconds)

    def _listen(self) -> None:
        while self._pokes.read(1):
            self._poked.set()
        if self._holding_nothing:
            os._exit(0)
        self._stop_within(0)
        self._poked.set()


def main(load: LoadRenderer | None = None) -> None:
    """Work until told to stop. *load* makes the renderer; the engine is the default."""
    pipes = Pipes()
    settings = pipes.read_settings()
    configure_logging(settings, component="worker")
    data = DataDir(settings.data_dir)
    pipes.say(WorkerStatus(status="starting", detail="waiting for an earlier worker to let go of the folder"))
    with data.for_worker():
        try:
            checkpoint = _wait_for_weights(settings, pipes.say)
            pipes.say(WorkerStatus(status="starting", detail="loading the model"))
            renderer = (load or _load_engine)(get_recipe(settings.recipe), checkpoint.folder, settings)
            desk = SqliteDesk(data.jobs, max_attempts=settings.max_attempts)
        except AnimeStudioError as error:
            pipes.say(WorkerStatus.blocked(error))
            sys.exit(1)
        _Shift(settings, data, pipes, renderer, desk, checkpoint.revision).work()
        desk.close()


def _load_engine(recipe: Recipe, folder: Path, settings: Settings) -> Renderer:
    from anime_studio.engine.ready import ready_engine  # torch: seconds, and only once the weights are there

    return ready_engine(
        recipe,
        folder,
        device=settings.device,
        accelerate=settings.accelerate,
        cache_dir=settings.data_dir / "cache",
        models_dir=settings.models_dir,
    )


def _wait_for_weights(settings: Settings, say: Say) -> Checkpoint:
    while True:
        try:
            return locate_or_name_all(get_recipe(settings.recipe), settings.models_dir)
        except WeightsMissingError as error:
            say(WorkerStatus.blocked(error))
            time.sleep(LOOK_FOR_WEIGHTS_EVERY_S)


class _Shift:
    """The working life of a loaded worker."""

    def __init__(
        self,
        settings: Settings,
        data: DataDir,
        pipes: Pipes,
        renderer: Renderer,
        desk: SqliteDesk,
        revision: str,
    ) -> None:
        self._settings = settings
        self._data = data
        self._pipes = pipes
        self._renderer = renderer
        self._desk = desk
        self._clips = FolderClips(data.clips)
        self._clock = SystemClock()
        self._pace: Pace = FIRST_PACE
        self._house_kept_at = float("-inf")
        self._ready = WorkerStatus(status="ready", detail="one worker is ready", model_revision=revision)
        self._said: WorkerStatus | None = None

    def work(self) -> None:
        """Draw jobs until told to stop. A full disk makes it wait, never die."""
        self._pipes.begin_work(self._settings.drain_s)
        shutil.rmtree(self._data.scratch, ignore_errors=True)
        self._say(self._ready)
        while not self._pipes.stopping:
            try:
                self._keep_house()
                found = self._draw_next()
            except StorageError as error:
                self._say(WorkerStatus.blocked(error))
                self._pipes.wait_for_poke(AFTER_STORAGE_ERROR_S)
                continue
            self._say(self._ready)
            if not found:
                self._pipes.wait_for_poke(LOOK_FOR_WORK_EVERY_S)

    def _draw_next(self) -> bool:
        job = self._desk.claim(self._clock.now())
        if job is None:
            return False
        if job.state.final:  # ended at the claim: its worker died too often, or it was cancelled meanwhile
            log_job(job, log_prompts=self._settings.log_prompts)
            return True
        ended = run_job(
            job,
            renderer=self._renderer,
            desk=self._desk,
            clips=self._clips,
            machine=UNBILLED,
            clock=self._clock,
            scratch=self._data.scratch,
            pace=self._pace,
            stop_requested=self._pipes.stop_now,
            log_prompts=self._settings.log_prompts,
        )
        self._pace = Pace.of(ended) or self._pace
        return True

    def _keep_house(self) -> None:
        now = time.monotonic()
        if now - self._house_kept_at < KEEP_HOUSE_EVERY_S:
            return
        if self._house_kept_at == float("-inf"):
            self._clips.remove_remains()
        self._house_kept_at = now
        settings, today = self._settings, self._clock.now()
        retention = Retention(
            max_age=timedelta(seconds=settings.clip_ttl_s),
            max_bytes=settings.clips_max_bytes,
            min_age=timedelta(seconds=settings.url_ttl_s),
        )
        self._clips.sweep(today, retention)
        if forgotten := self._desk.sweep(today, timedelta(seconds=settings.job_ttl_s)):
            _log.info(JOBS_SWEPT, count=forgotten)

    def _say(self, status: WorkerStatus) -> None:
        if status != self._said:
            self._said = status
            self._pipes.say(status)


if __name__ == "__main__":
    main()
