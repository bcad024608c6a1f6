"""What one GPU container holds: an engine that is ready, or the error that keeps it from being ready.

Modal calls two hooks: `before_snapshot`, then `after_snapshot`. Between them Modal may take a memory snapshot and
restore it in another container, or do nothing; the worker is ready after both, in each snapshot mode. The hooks never
raise for an error that a person must fix (missing weights, a broken device), because Modal starts a container that
fails to start again and again, and bills for it (guide, "Failures and retries"). The worker stores that error and
fail each job with it.

The file `in_use` on the Volume names the weights (`checkpoints.store`). The worker compares it after a restore and
before each job, and loads what is named, while the old weights wait in host memory: they go on if the new ones cannot
be used. A job is rendered by one engine from its text to its last frame, so no clip mixes two.

Source of the hooks' order and of what a snapshot does: modal.com/docs/guide/memory-snapshots and client 1.6.4,
`modal/_runtime/task_lifecycle_manager.py`.
"""

from __future__ import annotations

import contextlib
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

from anime_studio.checkpoints.decoders import FOLDER as DECODERS
from anime_studio.checkpoints.decoders import with_decoder
from anime_studio.checkpoints.store import Checkpoint, locate, naming, revision_in_use
from anime_studio.core.clip import new_seed, plan
from anime_studio.core.clock import SystemClock
from anime_studio.core.errors import (
    AnimeStudioError,
    EngineError,
    StorageError,
    WeightsMissingError,
)
from anime_studio.core.jobs import JobRecord
from anime_studio.core.notes import weights_refused, weights_swapped
from anime_studio.core.ports import ClipWriter, WorkerStore
from anime_studio.core.recipes import Recipe
from anime_studio.job_runner import JobRunner
from anime_studio.on_modal.dicts import to_json
from anime_studio.on_modal.settings import SCRATCH, USE_COMMAND, ModalSettings
from anime_studio.on_modal.weights import see_anew, setup_needed
from anime_studio.telemetry import LogEvent, log_job
from common.schemas import GenerateRequest, Problem, Stage, StartKind

if TYPE_CHECKING:
    from anime_studio.engine.engine import Engine
    from anime_studio.engine.loading.components import Components
    from anime_studio.on_modal.kernels import StoredKernels
    from anime_studio.on_modal.remote_text import RemoteText

_FRESH_S: Final = 10.0
"""A first job that comes so soon after its container's start reads nothing anew: the start did."""

_log = structlog.get_logger(__name__)

LoadEngine = Callable[[Recipe, Checkpoint, ModalSettings], "Engine"]
CheckDevice = Callable[[ModalSettings], None]
_UNKNOWN: Final = object()


class CallStore(WorkerStore, Protocol):
    """A `WorkerStore` for one Modal call, which also claims the call's job."""

    newest: JobRecord | None
    """The version that was saved last, even if saving it failed."""

    def claim(self, job: JobRecord) -> JobRecord | None:
        """Return the claimed job; a final job when there is nothing to render; None when another call has it."""
        ...

    def cancel_of_owner(self, job_id: str) -> Problem | None:
        """Return the problem that the owner's cancel gives; None when the owner did not cancel."""
        ...


class GpuWorker:
    """The state of one GPU container."""

    def __init__(
        self,
        settings: ModalSettings,
        *,
        text: RemoteText | None = None,
        kernels: StoredKernels | None = None,
        refresh: Callable[[], None] = lambda: None,
        load: LoadEngine | None = None,
        check: CheckDevice | None = None,
        task_id: Callable[[], str] | None = None,
    ) -> None:
        """Store what the hooks need; the hooks do the work.

        Args:
            settings: Of the deployment.
            text: The text container, where the text is encoded; None to load the encoder here.
            kernels: Those of earlier starts; None to compile at each.
            refresh: Makes the Volume of checkpoints show what was committed since it was mounted.
            load: Makes the engine; absent means `engine.startup`.
            check: Raises `EngineError` when the device fails; absent means `engine.device_check`.
            task_id: Names the container; absent means Modal's variable.
        """
        self.settings = settings
        self.recipe = settings.offered
        self.engine: Engine | None = None
        self.checkpoint: Checkpoint | None = None
        self.error: AnimeStudioError | None = None
        self.device_failed = False
        """The GPU itself is at fault: another container may have a better one."""
        self.start_kind = StartKind.COLD
        self.start_s = 0.0
        """Seconds that made the container ready; billed to its first job."""
        self.started: tuple[StartKind, float] = (StartKind.COLD, 0.0)
        """Kind and seconds of the start, for `prove`; no job takes them."""
        self.used = False
        """Whether a call came before; `prove` wants those that waited for a start."""
        self._text = text
        self._kernels = kernels
        self._making_snapshot = False
        self._refresh = refresh
        self._naming: object = None
        """Of `in_use`, when it was last compared."""
        self._in_snapshot: str | None = None
        """Revision of the weights that the snapshot holds, if it holds any."""
        self._fresh_until = 0.0
        self._load_engine = load or self._start_engine
        self._weights: tuple[Checkpoint, Components, str] | None = None
        self._check_device = check or _check_device
        self._task_id = task_id or _modal_task_id
        self._snapshot_task_id = ""
        self._fingerprint = ""
        self._runner: JobRunner | None = None

    def before_snapshot(self) -> None:
        """Do what the snapshot should hold: load the model and put it to sleep, or load its weights, or nothing."""
        begun = time.monotonic()
        self._snapshot_task_id = self._task_id()
        if self.settings.snapshot == "gpu":
            self._making_snapshot = True
            self._load()
            self._sleep()
            self._making_snapshot = False
            self._in_snapshot = self.checkpoint.revision if self.checkpoint else None
        elif self.settings.snapshot == "cpu":
            self._load_compilers()
            self._load_weights()
            self._in_snapshot = self._weights[0].revision if self._weights else None
        self.start_s = time.monotonic() - begun

    def after_snapshot(self) -> None:
        """Make the container ready, whether it was restored from a snapshot or has just run `before_snapshot`."""
        begun = time.monotonic()
        restored = self._snapshot_task_id != self._task_id()
        self.start_kind = StartKind.RESTORED if restored else StartKind.COLD
        if restored:
            self.start_s = 0.0  # those seconds were another container's
            see_anew(self._refresh)
        if self.engine is None:
            self._load()
        elif not (self._others_are_named() and self._swap()):
            self._wake_up_or_reload(self.engine)
        if restored:
            from anime_studio.engine.device_check import reseed

            reseed()
        self.start_s += time.monotonic() - begun
        self.started = (self.start_kind, self.start_s)
        self._fresh_until = time.monotonic() + _FRESH_S
        if self._kernels is not None:
            self._kernels.keep(replace=not restored)
        self._log_state()

    def render(
        self,
        job: Mapping[str, Any],
        worker_store: AbstractContextManager[CallStore],
        clips: ClipWriter,
        text_call_id: str | None = None,
    ) -> dict[str, Any]:
        """Render a job and store how it ended. The answer is JSON values, however the job ended.

        Args:
            job: A `JobRecord` as JSON values.
            worker_store: Where its versions are stored.
            clips: Where the clip is stored.
            text_call_id: Of the call that was started for this job's text.

        Returns:
            `{"record": …}`, the final record; empty when another call renders the job.
        """
        with worker_store as store:
            record = store.claim(JobRecord.model_validate(job))
            if record is None or record.state.final:
                return {} if record is None else _answer(record)
            if self._text is not None:
                self._text.call_id = text_call_id
            try:
                return _answer(self._render_claimed(record, store, clips))
            except StorageError:  # the end could not be stored; the answer carries it to the web container
                if store.newest is None or not store.newest.state.final:
                    raise
                return _answer(store.newest)
            except InputCancellation:  # a BaseException: the runner does not catch it
                _save_if_cancelled_by_owner(store, store.newest or record)
                raise

    def generate(self, request: GenerateRequest) -> bytes:
        """Return the MP4 of *request*; nothing is stored.

        Raises:
            AnimeStudioError: The container is not ready, or rendering failed.
        """
        runner = self._ready()
        spec = plan(
            request,
            self.recipe,
            model_revision=runner.model_revision,
            seed=new_seed(),
            decoder=runner.decoder,
            compose_prompt=self.settings.compose_prompts,
        )
        SCRATCH.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=SCRATCH) as folder:
            return runner.renderer.render(spec, Path(folder), _ignore_progress).video.read_bytes()

    def _render_claimed(self, record: JobRecord, worker_store: CallStore, clips: ClipWriter) -> JobRecord:
        try:
            runner = self._ready()
        except AnimeStudioError as error:
            failed = record.failed(error.problem(record.request_id), SystemClock().now())
            worker_store.save(failed)
            log_job(failed, log_prompts=self.settings.log_prompts)
            return failed
        start_s, self.start_s = self.start_s, 0.0
        start_kind, self.start_kind = self.start_kind, StartKind.WARM
        waited_s = max(0.0, (record.timings.queue_s or 0.0) - start_s)
        timings = record.timings.model_copy(update={"queue_s": waited_s})
        record = record.model_copy(update={"timings": timings})
        return runner.run(record, worker_store, clips, start_kind=start_kind, start_s=start_s)

    def _ready(self) -> JobRunner:
        self.used = True
        self._follow_weights()
        if self._runner is None:
            raise self.error or EngineError("the container was not made ready; see its log")
        return self._runner

    def _follow_weights(self) -> None:
        """Between two jobs: load the weights that are named now, if they are others; its seconds are billed to the next job."""
        fresh, self._fresh_until = time.monotonic() < self._fresh_until, 0.0
        if fresh:
            return
        see_anew(self._refresh)
        if not self._others_are_named():
            return
        begun = time.monotonic()
        try:
            if self.engine is None:
                self._load()
            elif not self._swap():
                self._wake_up_or_reload(self.engine)
        except BaseException:  # a cancel by Modal: the next job looks again
            self._naming = _UNKNOWN
            raise
        self.start_s += time.monotonic() - begun
        self._log_state()

    def _others_are_named(self) -> bool:
        """Whether `in_use` was written since it was last compared."""
        before, self._naming = self._naming, naming(self.recipe, self.settings.models_dir)
        return self._naming != before

    def _swap(self) -> bool:
        """Load what is named in place of what is loaded; return False if that stays, perhaps asleep."""
        assert self.checkpoint is not None
        old = self.checkpoint
        try:
            named = self._locate()
            if named == old:
                return False
            _log.info(LogEvent.WEIGHTS_SWAPPING, revision=named.revision, before=old.revision)
            self._sleep()  # so that the device has room
            self._take(named)
        except AnimeStudioError as error:
            self._refuse(error, old)
            return False
        gc.collect()  # the old engine
        return True

    def _refuse(self, error: AnimeStudioError, old: Checkpoint) -> None:
        _log.error(LogEvent.WEIGHTS_REFUSED, code=error.code, detail=error.detail, revision=old.revision)
        self.device_failed = False
        if self._runner is not None:
            self._runner.notes = (weights_refused(error.detail, old.revision),)

    def _load(self) -> None:
        """Load what is named; if that cannot be used, what the snapshot held; else say in `error` why not."""
        self.error, self.device_failed = None, False
        self._naming = naming(self.recipe, self.settings.models_dir)
        held = self._weights
        old = held[0] if held is not None else self.checkpoint
        named: Checkpoint | None = None
        try:
            named = self._locate()
            self._take(named)
        except AnimeStudioError as error:
            self.error = error
            if old in (None, named) or self.device_failed:
                return
            try:
                self._weights = held
                self._take(old)
            except AnimeStudioError:
                return
            self.error = None
            self._refuse(error, old)

    def _take(self, checkpoint: Checkpoint) -> None:
        """Load *checkpoint* and render with it from now on; what is loaded stays when this raises.

        Raises:
            AnimeStudioError: It cannot be used, or the device fails.
        """
        from anime_studio.engine.device_check import fingerprint
        from anime_studio.engine.text import encoder_revision

        self._check_device_or_note_it()
        engine = self._load_engine(self.recipe, checkpoint, self.settings)
        self._fingerprint, encoder = fingerprint(engine.components), encoder_revision(checkpoint.folder)
        swapped = self._in_snapshot not in (None, checkpoint.revision)
        runner = JobRunner(
            engine,
            model_revision=checkpoint.revision,
            machine=self.settings.machine,
            clock=SystemClock(),
            scratch=SCRATCH,
            decoder=checkpoint.decoder,
            log_prompts=self.settings.log_prompts,
            notes=(weights_swapped(checkpoint.revision),) if swapped else (),
        )
        if self._text is not None:
            self._text.revision, self._text.encoder = checkpoint.revision, encoder
        self.engine, self._runner = engine, runner
        self.checkpoint = checkpoint  # last: were this interrupted, the next look would load it once more

    def _load_compilers(self) -> None:
        """Import what the first compilation would: a snapshot holds it, and a start reads it in seconds. No GPU is looked for."""
        if self.settings.uses_gpu and self.settings.accelerate:
            from anime_studio.engine.startup import import_compiler

            import_compiler()

    def _load_weights(self) -> None:
        """Load weights into host memory. Modal shows no GPU now; if torch looked for one, it would never see one later."""
        from anime_studio.engine import startup
        from anime_studio.engine.device_check import fingerprint

        try:
            checkpoint = self._locate()
            weights = startup.load_weights(
                checkpoint, for_gpu=self.settings.uses_gpu, with_text=self._text is None
            )
            if weights is not None:
                self._weights = checkpoint, weights, fingerprint(weights)
        except AnimeStudioError as error:  # the start loads them, or says why it cannot
            _log.warning(LogEvent.GENERATOR_WEIGHTS_FAILED, detail=error.detail)

    def _start_engine(self, recipe: Recipe, checkpoint: Checkpoint, settings: ModalSettings) -> Engine:
        from anime_studio.engine.device_check import check_fingerprint

        held, self._weights = self._weights, None
        weights = None
        if held is not None and held[0] == checkpoint:  # else other weights were fetched since
            try:
                check_fingerprint(held[1], held[2])
                weights = held[1]
            except EngineError as error:
                _log.warning(LogEvent.GENERATOR_BAD_RESTORE, detail=error.detail)
                self.start_kind = StartKind.RECOVERED
        kept = self._kernels is not None and self._kernels.restore(recipe, checkpoint)
        return _load_engine(
            recipe,
            checkpoint,
            settings,
            text=self._text,
            weights=weights,
            every_shape=self._making_snapshot or not kept,
        )

    def _locate(self) -> Checkpoint:
        recipe, decoder, models_dir = self.recipe, self.settings.decoder, self.settings.models_dir
        where = models_dir / recipe.checkpoint_name
        try:
            checkpoint, where = locate(recipe, models_dir), models_dir / DECODERS
            return with_decoder(checkpoint, recipe, decoder, models_dir)
        except WeightsMissingError as error:
            needed = setup_needed(recipe, decoder, str(where))
            if (named := revision_in_use(recipe, models_dir)) is None:
                raise needed from None
            raise WeightsMissingError(
                f"{error.detail.partition(';')[0]}, and the file in_use names {named}; fetch the weights with: "
                f"{needed.command}; or name others with: {USE_COMMAND} --revision",
                command=needed.command,
            ) from None

    def _check_device_or_note_it(self) -> None:
        try:
            self._check_device(self.settings)
        except EngineError:
            self.device_failed = True
            raise

    def _sleep(self) -> None:
        try:
            if self.engine is not None:
                self.engine.sleep()
        except AnimeStudioError as error:  # the snapshot is then larger and slower to restore, but valid
            _log.warning(LogEvent.GENERATOR_SLEEP_FAILED, detail=error.detail)

    def _wake_up_or_reload(self, engine: Engine) -> None:
        from anime_studio.engine.device_check import check_fingerprint

        try:
            self._check_device(self.settings)
            engine.wake_up()
            check_fingerprint(engine.components, self._fingerprint)
        except AnimeStudioError as error:
            _log.warning(LogEvent.GENERATOR_BAD_RESTORE, detail=error.detail)
            self.start_kind = StartKind.RECOVERED
            self.engine = self._runner = None
            del engine
            gc.collect()
            self._load()

    def _log_state(self) -> None:
        if self.engine is not None:
            revision = self.checkpoint.revision if self.checkpoint else None
            _log.info(
                LogEvent.GENERATOR_READY,
                start_kind=self.start_kind,
                start_s=round(self.start_s, 3),
                revision=revision,
                decoder=self.settings.decoder,
                loaded_from=self.engine.components.folder.name,
            )
        elif self.error is not None:
            _log.error(LogEvent.GENERATOR_BLOCKED, code=self.error.code, detail=self.error.detail)


def _load_engine(
    recipe: Recipe,
    checkpoint: Checkpoint,
    settings: ModalSettings,
    *,
    text: RemoteText | None,
    weights: Components | None,
    every_shape: bool,
) -> Engine:
    from anime_studio.engine.embeddings_cache import EmbeddingsCache
    from anime_studio.engine.startup import start_engine

    device = "cuda" if settings.uses_gpu else "cpu"
    return start_engine(
        recipe,
        checkpoint,
        device=device,
        accelerate=settings.accelerate,
        cache=EmbeddingsCache(settings.embeddings_bounds()),
        text=text,
        weights=weights,
        every_shape=every_shape,
    )


def _check_device(settings: ModalSettings) -> None:
    from anime_studio.engine import device_check
    from anime_studio.engine.startup import device_named

    if settings.uses_gpu:
        device_check.wait_for_cuda()
    device_check.check_device(device_named("cuda" if settings.uses_gpu else "cpu"))


def _modal_task_id() -> str:
    """Return the id that Modal gave this container. After a restore it differs from the id at the snapshot."""
    return os.environ.get("MODAL_TASK_ID", "")


def _save_if_cancelled_by_owner(store: CallStore, record: JobRecord) -> None:
    """End the job if its owner cancelled it. Modal cancels calls for reasons of its own too, and runs those again."""
    if record.state.final:
        return
    with contextlib.suppress(StorageError):  # the rerun reads the mark again when it claims the job
        if (problem := store.cancel_of_owner(record.job_id)) is not None:
            store.save(record.cancelled(problem, SystemClock().now()))


def _answer(record: JobRecord) -> dict[str, Any]:
    return {"record": to_json(record)}


def _ignore_progress(stage: Stage, step: int = 0, total_steps: int = 0) -> None:
    """A `Report` for a caller that follows no progress."""
