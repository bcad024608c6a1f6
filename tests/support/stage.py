"""A whole studio behind a real socket, with the real store and folder; only the GPU is played.

The test plays the worker with `SqliteDesk`, from outside the server's event loop, as the
worker process does: it claims, steps, publishes real files, or fails.
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
from anime_studio.core.pricing import Machine, receipt
from anime_studio.core.recipes import TINY_RANDOM
from anime_studio.core.signing import UrlSigner
from anime_studio.core.studio import Policy, Studio
from anime_studio.storage.folder_clips import FolderClips
from anime_studio.storage.sqlite_desk import SqliteDesk
from anime_studio.storage.sqlite_jobs import SqliteJobs
from anime_studio.web.app import create_app
from anime_studio.web.options import WebOptions
from common.schemas import Progress, Readiness, StartKind, Timings
from common.schemas import Stage as JobStage
from support.clips import render

OLD_KEY, NEW_KEY = "old-" + "k" * 32, "new-" + "k" * 32
L4 = Machine("L4", cpu_cores=2, memory_gib=16)
WAIT_S = 120.0
"""How long the server holds `/generate`; no test waits for its end."""
PATIENCE_S = 180.0

T = TypeVar("T")


class MovableClock:
    """The machine's clock, moved by as much as the test says, or stopped."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)
        self._stopped_at: datetime | None = None

    def now(self) -> datetime:
        return self._stopped_at or datetime.now(UTC) + self.ahead

    def stop_at(self, moment: datetime) -> None:
        """Stand still, for tests of single seconds: a slow machine would be late."""
        self._stopped_at = moment


@dataclass
class PlayedLauncher:
    """A worker that is asked, and does what the test does."""

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


class Stage:
    """The server, a client for it, and the hands that play its worker."""

    def __init__(self, folder: Path, **changes: object) -> None:
        self.folder = folder
        self.clock = MovableClock()
        self.launcher = PlayedLauncher()
        self.clips = FolderClips(folder / "clips")
        self.policy = Policy(max_queued_jobs=4, machine=L4)
        self.keys = [OLD_KEY]
        defaults: dict[str, object] = {
            "recipe": TINY_RANDOM.name,
            "version": "9.9.9",
            "generate_wait_s": WAIT_S,
        }
        self.options = WebOptions(**(defaults | changes))  # type: ignore[arg-type]
        self.studio: Studio
        self.store: SqliteJobs

    @property
    def database(self) -> Path:
        return self.folder / "jobs.sqlite3"

    @contextlib.asynccontextmanager
    async def open_studio(self) -> AsyncIterator[Studio]:
        async with SqliteJobs(self.database) as self.store:
            self.studio = Studio(
                recipe=TINY_RANDOM,
                model_revision="random-0",
                jobs=self.store,
                launcher=self.launcher,
                clips=self.clips,
                signer=UrlSigner(self.keys),
                policy=self.policy,
                clock=self.clock,
            )
            yield self.studio

    @contextlib.contextmanager
    def serve(self) -> Iterator[httpx.Client]:
        """Serve on a free port of the loopback interface while the block runs."""
        config = uvicorn.Config(
            create_app(self.open_studio, self.options),
            host="127.0.0.1",
            port=0,
            access_log=False,  # its lines hold the query, and so the signatures
            log_config=None,
            timeout_graceful_shutdown=5,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, name="stage", daemon=True)
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
    def desk(self) -> Iterator[SqliteDesk]:
        desk = SqliteDesk(self.database, max_attempts=3)
        try:
            yield desk
        finally:
            desk.close()

    def claim(self, desk: SqliteDesk) -> JobRecord:
        """Take the next job, waiting for one."""
        return until(lambda: desk.claim(self.clock.now()))

    def step(self, desk: SqliteDesk, job: JobRecord, step: int) -> JobRecord:
        total = job.spec.num_inference_steps
        progress = Progress(step=step, total_steps=total, fraction=step / total, eta_s=float(total - step))
        job = job.progressed(JobStage.DENOISE, progress, StartKind.COLD)
        desk.save(job)
        return job

    def store_record(self, job_id: str) -> JobRecord:
        """Read the job as it is kept, past the server."""
        with sqlite3.connect(self.database) as database:
            (record,) = database.execute("SELECT record FROM jobs WHERE job_id = ?", (job_id,)).fetchone()
        return JobRecord.model_validate_json(record)

    def publish(self, job: JobRecord) -> StoredClip:
        return self.clips.publish(job.clip_id, render(self.folder / "scratch", seed=job.spec.seed % 3))

    def finish(self, desk: SqliteDesk, job: JobRecord) -> JobRecord:
        """Publish a real clip and end the job well."""
        clip = self.publish(job)
        queue_s = job.timings.queue_s
        timings = Timings(
            queue_s=queue_s, start_s=1.5, text_s=0.01, denoise_s=0.3, decode_s=0.1, store_s=0.02, total_s=2.0
        )
        job = job.succeeded(clip, timings, receipt(timings, L4), self.clock.now())
        desk.save(job)
        return job

    def draw_next(self) -> JobRecord:
        """Play the worker for one job, start to end."""
        with self.desk() as desk:
            job = self.claim(desk)
            for step in range(1, job.spec.num_inference_steps + 1):
                job = self.step(desk, job, step)
            return self.finish(desk, job)

    def fail_next(self) -> JobRecord:
        with self.desk() as desk:
            job = self.claim(desk)
            problem = BadFramesError(f"job {job.job_id} drew black frames").problem(job.request_id)
            job = job.failed(problem, self.clock.now())
            desk.save(job)
            return job

    @contextlib.contextmanager
    def worker(self) -> Iterator[None]:
        """Draw every job that comes, in a thread, while the block runs."""
        over = threading.Event()

        def work() -> None:
            with self.desk() as desk:
                while not over.wait(0.01):
                    if (job := desk.claim(self.clock.now())) and not job.state.final:
                        self.finish(desk, job)

        thread = threading.Thread(target=work, name="played-worker", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "the played worker does not stop"


def until(look: Callable[[], T], timeout_s: float = PATIENCE_S) -> T:
    """Return what *look* finds once it is true."""
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{look} found nothing in {timeout_s} s")
        time.sleep(0.005)
    return found
