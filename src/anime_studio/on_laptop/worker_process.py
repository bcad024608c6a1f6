"""The worker process of a laptop: loads the engine, then renders one job after another.

Started by `supervisor`, never by hand. It reports its readiness on standard output, so that the
server answers `/ready` while torch is still being imported here. On SIGTERM, or when its server is gone
(standard input ends), it requeues its job and ends.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from io import FileIO
from typing import Final

import structlog
from pydantic import BaseModel

from anime_studio.checkpoints.decoders import locate_with_decoder
from anime_studio.checkpoints.store import Checkpoint
from anime_studio.core.clock import CautiousClock, SystemClock
from anime_studio.core.errors import AnimeStudioError, StorageError, WeightsMissingError
from anime_studio.core.eta import UNMEASURED
from anime_studio.core.ports import Renderer
from anime_studio.core.pricing import UNBILLED
from anime_studio.core.readiness import not_ready, starting
from anime_studio.core.recipes import Recipe, get_recipe
from anime_studio.job_runner import JobRunner
from anime_studio.on_laptop.clips import FolderClips, Retention
from anime_studio.on_laptop.data_dir import DataDir
from anime_studio.on_laptop.heartbeat import Heartbeat, bounded
from anime_studio.on_laptop.offers import offered
from anime_studio.on_laptop.text_ahead import EncodesAhead, TextAhead
from anime_studio.on_laptop.worker_store import SqliteWorkerStore
from anime_studio.settings import Settings
from anime_studio.telemetry import LogEvent, configure_logging, log_job
from common.schemas import ClipSpec, Readiness, Stage, StartKind

POLL_JOBS_EVERY_S: Final = 0.25
"""Only a fallback: the server notifies the worker of each job."""
POLL_WEIGHTS_EVERY_S: Final = 3.0
RETRY_STORAGE_AFTER_S: Final = 1.0
BEAT_EVERY_S: Final = 1.0
SWEEP_EVERY_S: Final = 60.0

READY: Final = Readiness(ready=True, status="ready", detail="one worker is ready")

_log = structlog.get_logger(__name__)

LoadRenderer = Callable[[Recipe, Checkpoint, Settings], Renderer]


class SupervisorPipe:
    """The pipe to the supervisor: settings and notifications come in, readiness goes out."""

    def __init__(self) -> None:
        # Unbuffered: a thread that waits in a buffer's lock keeps the interpreter from ending.
        self._input = FileIO(0, closefd=False)
        self._notified = threading.Event()
        self._stop_at: float | None = None
        self._may_exit = True
        self._reported: Readiness | None = None
        self._beaten: Heartbeat | None = None
        self._beaten_at = float("-inf")
        self._writing = threading.Lock()
        # Libraries sometimes print to standard output: that goes to the log, the pipe stays clean.
        self._output = FileIO(os.dup(1), "wb")
        os.dup2(2, 1)

    def read_settings(self) -> Settings:
        """Read the first line; from then on listen for notifications and for the server's end."""
        settings = Settings.model_validate_json(self._input.readline())
        threading.Thread(target=self._listen, name="server-listener", daemon=True).start()
        return settings

    def report(self, readiness: Readiness) -> None:
        """Send the server our readiness, when it has changed."""
        if readiness == self._reported:
            return
        self._reported = readiness
        self._write(bounded(readiness))

    def beat(self, limit_s: float, stage: Stage | None = None) -> None:
        """Send a sign of life: the next one follows within *limit_s*, or this process hangs."""
        heartbeat, now = Heartbeat(limit_s=limit_s, stage=stage), time.monotonic()
        if heartbeat == self._beaten and now - self._beaten_at < BEAT_EVERY_S:
            return
        self._beaten, self._beaten_at = heartbeat, now
        self._write(heartbeat)

    @contextlib.contextmanager
    def beating(self, limit_s: float) -> Iterator[None]:
        """Send signs of life from a thread while the block runs: loading has no steps that could."""
        over = threading.Event()

        def beat() -> None:
            self.beat(limit_s)
            while not over.wait(BEAT_EVERY_S):
                self.beat(limit_s)

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _write(self, line: BaseModel) -> None:
        with self._writing, contextlib.suppress(BrokenPipeError):  # server gone: the listener sees it too
            self._output.write(line.model_dump_json().encode() + b"\n")

    def drain_on_sigterm(self, drain_s: float) -> None:
        """From now on SIGTERM means: finish your job within *drain_s*. Before, it ends the process at once."""
        signal.signal(signal.SIGTERM, lambda *_: self._stop_within(drain_s))
        self._may_exit = False

    def wait(self, timeout_s: float) -> None:
        """Sleep until there may be work."""
        self._notified.wait(timeout_s)
        self._notified.clear()

    @property
    def stopping(self) -> bool:
        """Whether no new job may be taken."""
        return self._stop_at is not None

    def must_requeue(self) -> bool:
        """Whether the worker must requeue the job that it renders."""
        return self._stop_at is not None and time.monotonic() >= self._stop_at

    def _stop_within(self, seconds: float) -> None:
        self._stop_at = min(self._stop_at or float("inf"), time.monotonic() + seconds)

    def _listen(self) -> None:
        while self._input.read(1):
            self._notified.set()
        if self._may_exit:
            os._exit(0)
        self._stop_within(0)
        self._notified.set()


def load_engine(recipe: Recipe, checkpoint: Checkpoint, settings: Settings) -> Renderer:
    """Return the engine over *checkpoint*; see `start_engine` for what it raises."""
    from anime_studio.engine.embeddings_cache import EmbeddingsCache  # torch takes seconds
    from anime_studio.engine.startup import (
        device_named,
        start_engine,
        start_text_encoder,
    )

    cache, text = EmbeddingsCache(settings.embeddings_bounds(), settings.data_dir / "cache"), None
    if settings.text == "cpu" and device_named(settings.device).type == "cuda":
        text = start_text_encoder(recipe, checkpoint, for_gpu=True, cache=cache)
    return start_engine(
        recipe,
        checkpoint,
        device=settings.device,
        accelerate=settings.accelerate,
        cache=cache,
        text=text,
    )


def _wait_for_weights(settings: Settings, pipe: SupervisorPipe) -> Checkpoint:
    while True:
        try:
            return locate_with_decoder(get_recipe(settings.recipe), settings.decoder, settings.models_dir)
        except WeightsMissingError as error:
            pipe.report(not_ready(error))
            time.sleep(POLL_WEIGHTS_EVERY_S)


class WorkerLoop:
    """What a worker does once its engine is loaded: claim, render, sweep, until it is told to stop."""

    def __init__(
        self,
        settings: Settings,
        pipe: SupervisorPipe,
        runner: JobRunner,
        store: SqliteWorkerStore,
        clips: FolderClips,
    ) -> None:
        self._settings = settings
        self._pipe = pipe
        self._runner = runner
        self._store = store
        self._clips = clips
        self._start_kind = StartKind.COLD
        self._swept_at = float("-inf")
        self._sweep_clock = CautiousClock(runner.clock)

    def run(self) -> None:
        """Render jobs until told to stop. A full disk makes it wait, never die."""
        self._pipe.drain_on_sigterm(self._settings.drain_s)
        shutil.rmtree(self._runner.scratch, ignore_errors=True)
        self._pipe.report(READY)
        while not self._pipe.stopping:
            self._pipe.beat(self._settings.hang_after_s)
            try:
                self._sweep_periodically()
                found = self._run_next()
            except StorageError as error:
                self._pipe.report(not_ready(error))
                self._pipe.wait(RETRY_STORAGE_AFTER_S)
                continue
            self._pipe.report(READY)
            if not found:
                self._pipe.wait(POLL_JOBS_EVERY_S)

    def _run_next(self) -> bool:
        job = self._store.claim(self._runner.clock.now())
        if job is None:
            return False
        if job.state.final:  # ended at the claim: its worker died too often, or its owner cancelled it
            log_job(job, log_prompts=self._settings.log_prompts)
            return True
        start_kind, self._start_kind = self._start_kind, StartKind.WARM
        self._runner.run(job, self._store, self._clips, start_kind=start_kind, start_s=0.0)
        return True

    def _sweep_periodically(self) -> None:
        now = time.monotonic()
        if now - self._swept_at < SWEEP_EVERY_S:
            return
        if self._swept_at == float("-inf"):
            self._clips.remove_orphans()
        self._swept_at = now
        settings, today = self._settings, self._sweep_clock.now()
        confirmed = self._sweep_clock.confirmed
        retention = Retention(
            max_age=timedelta(seconds=settings.clip_ttl_s) if confirmed else timedelta.max,
            max_bytes=settings.clips_max_bytes,
            min_age=timedelta(seconds=settings.url_ttl_s),
        )
        self._clips.sweep(today, retention)
        if confirmed and (swept := self._store.sweep(today, timedelta(seconds=settings.job_ttl_s))):
            _log.info(LogEvent.JOBS_SWEPT, count=swept)


def main(load: LoadRenderer = load_engine) -> None:
    """Work until told to stop; *load* makes the renderer."""
    pipe = SupervisorPipe()
    settings = pipe.read_settings()
    configure_logging(settings, component="worker")
    data = DataDir(settings.data_dir)
    pipe.report(starting("waiting for an earlier worker to let go of the folder"))
    with contextlib.ExitStack() as stack:
        with pipe.beating(UNMEASURED * settings.hang_after_s):
            stack.enter_context(data.for_worker())
            try:
                store = SqliteWorkerStore(data.jobs, max_attempts=settings.max_attempts)
                stack.callback(store.close)
                runner = _load_runner(settings, pipe, data, load, store, stack)
            except AnimeStudioError as error:
                pipe.report(not_ready(error))
                sys.exit(1)
        _log.info(LogEvent.WORKER_READIED, model_revision=runner.model_revision, decoder=runner.decoder)
        WorkerLoop(settings, pipe, runner, store, FolderClips(data.clips)).run()


def _load_runner(
    settings: Settings,
    pipe: SupervisorPipe,
    data: DataDir,
    load: LoadRenderer,
    store: SqliteWorkerStore,
    stack: contextlib.ExitStack,
) -> JobRunner:
    checkpoint = _wait_for_weights(settings, pipe)
    pipe.report(starting("loading the model"))
    renderer = load(offered(settings), checkpoint, settings)
    ahead = TextAhead(renderer, store.next_queued) if isinstance(renderer, EncodesAhead) else None
    if ahead is not None:
        stack.callback(ahead.close)

    def on_report(spec: ClipSpec, stage: Stage) -> None:
        pipe.beat(runner.speeds.of(spec).longest_silence_s(spec, stage, settings.hang_after_s), stage)
        if ahead is not None:
            ahead.look(stage)

    runner = JobRunner(
        renderer,
        model_revision=checkpoint.revision,
        machine=UNBILLED,
        clock=SystemClock(),
        scratch=data.scratch,
        decoder=checkpoint.decoder,
        log_prompts=settings.log_prompts,
        stop_requested=pipe.must_requeue,
        ends_late_jobs=False,
        on_report=on_report,
    )
    return runner


if __name__ == "__main__":
    main()
