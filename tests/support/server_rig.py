"""A whole studio behind a real socket, with the real store and folder; only the worker is a fake.

The test acts as the worker through `SqliteWorkerStore`, from outside the server's event loop, as the
worker process does: it claims a job, saves its steps, publishes real files, or fails.
"""

import contextlib
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import httpx
import uvicorn

from anime_studio.core.errors import BadFramesError, UnavailableError
from anime_studio.core.jobs import JobRecord, StoredClip
from anime_studio.core.policy import Policy
from anime_studio.core.pricing import Machine, receipt
from anime_studio.core.recipes import TINY_RANDOM, Recipe
from anime_studio.core.signing import UrlSigner
from anime_studio.core.studio import Studio
from anime_studio.on_laptop.clips import FolderClips
from anime_studio.on_laptop.job_store import SqliteJobs
from anime_studio.on_laptop.worker_store import SqliteWorkerStore
from anime_studio.settings import WebOptions
from anime_studio.web.app import create_app
from common.schemas import Note, Progress, Readiness, Stage, StartKind, Timings
from support.clips import render

KEY = "key-" + "k" * 32
L4 = Machine("L4", cpu_cores=2, memory_gib=16)
WAIT_S = 100.0
"""How long `POST /generate` waits for the end of a job; no test waits so long."""
PATIENCE_S = 90.0
"""A hang costs so much; a busy machine may need half of it."""

T = TypeVar("T")


class MovableClock:
    """The machine's clock, moved by the test, or stopped."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)
        self._stopped_at: datetime | None = None

    def now(self) -> datetime:
        return self._stopped_at or datetime.now(UTC) + self.ahead

    def stop_at(self, moment: datetime) -> None:
        """Stop the clock, for tests of single seconds: a slow machine would be late."""
        self._stopped_at = moment


@dataclass
class FakeLauncher:
    """Records what it is asked; `ready` is its answer, and it refuses if `refuses`."""

    launched: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    ready: Readiness = Readiness(ready=True, status="ready", detail="one worker is idle")  # noqa: RUF009  frozen
    refuses: bool = False
    warmed: int = 0

    async def launch(self, job: JobRecord) -> None:
        if self.refuses:
            raise UnavailableError("no worker answers", retry_after_s=7)
        self.launched.append(job.job_id)

    async def stop(self, job: JobRecord) -> None:
        self.stopped.append(job.job_id)

    async def readiness(self) -> Readiness:
        return self.ready

    async def warm(self) -> None:
        if self.refuses:
            raise UnavailableError("no worker answers", retry_after_s=7)
        self.warmed += 1


class ServerRig:
    """The server, a client for it, and what the fake worker does.

    Args:
        folder: Holds the database and the clips.
        jobs: The class of the job store; a subclass may fail.
        clips: The class of the clip store; a subclass may fail.
        recipe: What the studio says that it renders.
        options: Changes to the `WebOptions`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        jobs: type[SqliteJobs] = SqliteJobs,
        clips: type[FolderClips] = FolderClips,
        recipe: Recipe = TINY_RANDOM,
        **options: object,
    ) -> None:
        self.folder = folder
        self.recipe = recipe
        self.clock = MovableClock()
        self.launcher = FakeLauncher()
        self.clips = clips(folder / "clips")
        self.policy = Policy(max_queued_jobs=4, machine=L4)
        defaults: dict[str, object] = {
            "recipe": recipe.name,
            "version": "9.9.9",
            "generate_wait_s": WAIT_S,
            "operator_on_loopback": True,
        }
        self.options = WebOptions(**(defaults | options))  # type: ignore[arg-type]
        self.jobs_class = jobs
        self.studio: Studio
        self.store: SqliteJobs

    @property
    def database(self) -> Path:
        return self.folder / "jobs.sqlite3"

    @contextlib.asynccontextmanager
    async def open_studio(self) -> AsyncIterator[Studio]:
        async with self.jobs_class(self.database) as self.store:
            self.studio = Studio(
                recipe=self.recipe,
                jobs=self.store,
                launcher=self.launcher,
                clips=self.clips,
                signer=UrlSigner([KEY]),
                policy=self.policy,
                clock=self.clock,
            )
            yield self.studio

    @contextlib.contextmanager
    def serve(self, port: int = 0) -> Iterator[httpx.Client]:
        """Serve on a free port of the loopback interface, or on the one given, while the block runs."""
        config = uvicorn.Config(
            create_app(self.open_studio, self.options),
            host="127.0.0.1",
            port=port,
            access_log=False,  # its lines hold the query, and so the signatures
            log_config=None,
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, name="test-server", daemon=True)
        thread.start()
        try:
            until(lambda: server.started or not thread.is_alive())
            port = server.servers[0].sockets[0].getsockname()[1]
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "the server does not stop"

    @contextlib.contextmanager
    def worker_store(self) -> Iterator[SqliteWorkerStore]:
        worker_store = SqliteWorkerStore(self.database, max_attempts=3)
        try:
            yield worker_store
        finally:
            worker_store.close()

    def claim(self, worker_store: SqliteWorkerStore) -> JobRecord:
        """Take the next job, waiting for one."""
        return until(lambda: worker_store.claim(self.clock.now()))

    def step(self, worker_store: SqliteWorkerStore, job: JobRecord, step: int) -> JobRecord:
        total = job.spec.num_inference_steps
        progress = Progress(step=step, total_steps=total, fraction=step / total, eta_s=float(total - step))
        job = job.progressed(Stage.DENOISE, progress, StartKind.COLD)
        worker_store.save(job)
        return job

    def record(self, job_id: str) -> JobRecord:
        """Read the stored job, without the server."""
        with sqlite3.connect(self.database) as database:
            (record,) = database.execute("SELECT record FROM jobs WHERE job_id = ?", (job_id,)).fetchone()
        return JobRecord.model_validate_json(record)

    def publish(self, job: JobRecord) -> StoredClip:
        return self.clips.publish(job.clip_id, render(self.folder / "scratch", seed=job.spec.seed % 3))

    def finish(
        self, worker_store: SqliteWorkerStore, job: JobRecord, *notes: Note, decode_s: float = 0.1
    ) -> JobRecord:
        """Publish a real clip and end the job."""
        clip = self.publish(job)
        queue_s = job.timings.queue_s
        timings = Timings(
            queue_s=queue_s,
            start_s=1.5,
            text_s=0.01,
            denoise_s=0.3,
            decode_s=decode_s,
            store_s=0.02,
            total_s=2.0,
        )
        job = job.succeeded(clip, timings, receipt(timings, L4), self.clock.now(), notes=notes)
        worker_store.save(job)
        return job

    def render_next(self, *notes: Note) -> JobRecord:
        """Do the worker's part for one job, from claim to clip."""
        with self.worker_store() as worker_store:
            job = self.claim(worker_store)
            for step in range(1, job.spec.num_inference_steps + 1):
                job = self.step(worker_store, job, step)
            return self.finish(worker_store, job, *notes)

    def fail_next(self) -> JobRecord:
        with self.worker_store() as worker_store:
            job = self.claim(worker_store)
            problem = BadFramesError(f"job {job.job_id} drew black frames").problem(job.request_id)
            job = job.failed(problem, self.clock.now())
            worker_store.save(job)
            return job

    @contextlib.contextmanager
    def worker(self) -> Iterator[None]:
        """Finish every job, in a thread, while the block runs."""
        over = threading.Event()

        def work() -> None:
            with self.worker_store() as worker_store:
                while not over.wait(0.01):
                    if (job := worker_store.claim(self.clock.now())) and not job.state.final:
                        self.finish(worker_store, job)

        thread = threading.Thread(target=work, name="fake-worker", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "the fake worker does not stop"


def until(look: Callable[[], T], timeout_s: float = PATIENCE_S) -> T:
    """Call *look* until its result is true, and return it."""
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{look} found nothing in {timeout_s} s")
        time.sleep(0.005)
    return found
