"""What lives in one GPU container: an engine that is ready, or the reason why it is not.

Two hooks make it ready, `before_snapshot` and `after_snapshot`. They leave a correct worker whether a memory
snapshot lies between them or nothing does, in each snapshot mode, and they never raise for what a person must
mend: Modal starts a container that fails to start again and again, on paid time (guide, "Failures and
retries"). Instead the fault is kept, and each job fails with it.

Source of the order and of what a snapshot does: modal.com/docs/guide/memory-snapshots and client 1.6.4,
`modal/_runtime/task_lifecycle_manager.py`.
"""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog
from modal.exception import InputCancellation

from anime_studio.core.clip import plan
from anime_studio.core.clock import SystemClock
from anime_studio.core.errors import AnimeStudioError, EngineError, JobCancelledError, StorageError
from anime_studio.core.jobs import ClipWriter, JobDesk, JobRecord
from anime_studio.core.recipes import get_recipe
from anime_studio.modal_settings import SCRATCH, SETUP_COMMAND, ModalSettings
from anime_studio.pace import FIRST_PACE, Pace
from anime_studio.prepared import locate_or_name_all
from anime_studio.telemetry import log_job
from anime_studio.weights import Checkpoint
from anime_studio.worker import run_job
from common.schemas import GenerateRequest, Stage, StartKind

if TYPE_CHECKING:
    from anime_studio.engine.engine import Engine

GENERATOR_READY: Final = "generator.ready"
GENERATOR_BLOCKED: Final = "generator.blocked"
GENERATOR_BAD_RESTORE: Final = "generator.bad_restore"
GENERATOR_RESTLESS: Final = "generator.restless"

_log = structlog.get_logger(__name__)


class Desk(JobDesk, Protocol):
    """A `JobDesk` for one call: it also hands out the call's job."""

    newest: JobRecord | None
    """What was saved last, kept or not."""

    def claim(self, job: JobRecord) -> JobRecord | None:
        """Return the job as claimed; final when there is nothing left to draw; None when another call has it."""
        ...


class GeneratorWorker:
    """The state of one container."""

    def __init__(self, settings: ModalSettings) -> None:
        self.settings = settings
        self.recipe = get_recipe(settings.recipe)
        self.engine: Engine | None = None
        self.checkpoint: Checkpoint | None = None
        self.fault: AnimeStudioError | None = None
        self.device_failed = False
        """The GPU itself is at fault: another container may have a better one."""
        self.start_kind = StartKind.COLD
        self.start_s = 0.0
        """Seconds that made it ready; billed to the first job."""
        self._fingerprint = ""
        self._task = ""
        self._pace: Pace = FIRST_PACE

    @property
    def uses_gpu(self) -> bool:
        """Whether it draws on a GPU."""
        return self.settings.gpu is not None and self.settings.device != "cpu"

    def before_snapshot(self) -> None:
        """Do what the snapshot should save: load the model and let it rest, or import what loading it needs, or nothing."""
        begun = time.monotonic()
        self._task = os.environ.get("MODAL_TASK_ID", "")
        if self.settings.snapshot == "gpu":
            self._load()
            self._rest()
        elif self.settings.snapshot == "cpu":
            # No GPU is visible here: asking torch for one would fix CUDA at "none" for good.
            from anime_studio.engine import engine  # noqa: F401
        self.start_s = time.monotonic() - begun

    def after_snapshot(self) -> None:
        """Be ready: in a container just restored, or in the same one, where nothing came between."""
        begun = time.monotonic()
        restored = self._task != os.environ.get("MODAL_TASK_ID", "")
        self.start_kind = StartKind.RESTORED if restored else StartKind.COLD
        if restored:
            self.start_s = 0.0  # another container's seconds
        if self.engine is None:
            self._load()
        else:
            self._wake_or_reload(self.engine)
        if restored:
            from anime_studio.engine.probe import reseed

            reseed()
        self.start_s += time.monotonic() - begun
        self._tell()

    def render(
        self, job: Mapping[str, Any], desk: AbstractContextManager[Desk], clips: ClipWriter
    ) -> dict[str, Any]:
        """Draw a job and keep its end; what is returned is plain data, whatever happened.

        Args:
            job: A `JobRecord` as JSON values.
            desk: Where its versions are kept.
            clips: Where the clip goes.

        Returns:
            `{"record": …}`, the final record; empty when another call draws the job.
        """
        with desk as at_desk:
            record = at_desk.claim(JobRecord.model_validate(job))
            if record is None or record.state.final:
                return {} if record is None else _plain(record)
            try:
                return _plain(self._draw_claimed(record, at_desk, clips))
            except StorageError:  # its end could not be kept; this answer carries it to the web container
                if at_desk.newest is None or not at_desk.newest.state.final:
                    raise
                return _plain(at_desk.newest)
            except InputCancellation:  # a BaseException: it passes through the worker
                _keep_cancelled(at_desk, at_desk.newest or record)
                raise

    def draw(self, request: GenerateRequest) -> bytes:
        """Return the MP4 of *request*; nothing is kept.

        Raises:
            AnimeStudioError: The container is not ready, or drawing failed.
        """
        engine, checkpoint = self._ready()
        spec = plan(
            request,
            self.recipe,
            model_revision=checkpoint.revision,
            seed=int.from_bytes(os.urandom(4)),
            compose_prompt=self.settings.compose_prompts,
        )
        SCRATCH.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=SCRATCH) as folder:
            return engine.render(spec, Path(folder), _unheard).video.read_bytes()

    def _draw_claimed(self, record: JobRecord, desk: Desk, clips: ClipWriter) -> JobRecord:
        try:
            engine, checkpoint = self._ready()
        except AnimeStudioError as fault:
            failed = record.failed(fault.problem(record.request_id), SystemClock().now())
            desk.save(failed)
            log_job(failed, log_prompts=self.settings.log_prompts)
            return failed
        # The web container names the newest revision it knows of; this is the one that draws.
        spec = record.spec.model_copy(update={"model_revision": checkpoint.revision})
        start_s, self.start_s = self.start_s, 0.0
        waited_s = max(0.0, (record.timings.queue_s or 0.0) - start_s)
        timings = record.timings.model_copy(update={"queue_s": waited_s})
        ended = run_job(
            record.model_copy(update={"spec": spec, "timings": timings}),
            renderer=engine,
            desk=desk,
            clips=clips,
            machine=self.settings.machine,
            clock=SystemClock(),
            scratch=SCRATCH,
            pace=self._pace,
            start_s=start_s,
            log_prompts=self.settings.log_prompts,
        )
        self._pace = Pace.of(ended) or self._pace
        return ended

    def _ready(self) -> tuple[Engine, Checkpoint]:
        if self.engine is None or self.checkpoint is None:
            raise self.fault or EngineError("the container was not made ready; see its log")
        return self.engine, self.checkpoint

    def _load(self) -> None:
        from anime_studio.engine import probe
        from anime_studio.engine.engine import device_named
        from anime_studio.engine.ready import ready_engine

        self.fault, self.device_failed = None, False
        try:
            self.checkpoint = locate_or_name_all(
                self.recipe, self.settings.models_dir, fetch_with=SETUP_COMMAND
            )
            if self.uses_gpu:
                self._try_device(probe.wait_for_cuda)
            device = "cuda" if self.uses_gpu else "cpu"
            self._try_device(lambda: probe.check_device(device_named(device)))
            engine = ready_engine(
                self.recipe,
                self.checkpoint.folder,
                device=device,
                accelerate=self.settings.accelerate,
                models_dir=self.settings.models_dir,
            )
            if not self.uses_gpu:
                engine.warm_up()
            self._fingerprint = probe.fingerprint(engine.components)
            self.engine = engine
        except AnimeStudioError as error:
            self.fault = error

    def _try_device(self, probe: Callable[[], None]) -> None:
        try:
            probe()
        except EngineError:
            self.device_failed = True
            raise

    def _rest(self) -> None:
        try:
            if self.engine is not None:
                self.engine.rest()
        except AnimeStudioError as error:  # the snapshot is then larger and slower, not wrong
            _log.warning(GENERATOR_RESTLESS, detail=error.detail)

    def _wake_or_reload(self, engine: Engine) -> None:
        from anime_studio.engine import probe

        try:
            if self.uses_gpu:
                probe.wait_for_cuda()
            probe.check_device(engine.components.device)
            engine.wake()
            probe.check_fingerprint(engine.components, self._fingerprint)
        except AnimeStudioError as error:
            _log.warning(GENERATOR_BAD_RESTORE, detail=error.detail)
            self.start_kind = StartKind.RECOVERED
            self.engine = None
            del engine
            gc.collect()
            self._load()

    def _tell(self) -> None:
        if self.engine is not None:
            self.engine.start_kind = self.start_kind
            revision = self.checkpoint.revision if self.checkpoint else None
            _log.info(
                GENERATOR_READY,
                start_kind=self.start_kind,
                start_s=round(self.start_s, 3),
                revision=revision,
                loaded_from=self.engine.components.folder.name,
            )
        elif self.fault is not None:
            _log.error(GENERATOR_BLOCKED, code=self.fault.code, detail=self.fault.detail)


def _keep_cancelled(desk: Desk, record: JobRecord) -> None:
    if not record.state.final:
        error = JobCancelledError(f"job {record.job_id} was cancelled by its owner")
        desk.save(record.cancelled(error.problem(record.request_id), SystemClock().now()))


def _plain(record: JobRecord) -> dict[str, Any]:
    return {"record": record.model_dump(mode="json")}


def _unheard(stage: Stage, step: int = 0, total_steps: int = 0) -> None:
    """A report that nobody listens to."""
