"""The state of a GPU container: three snapshot modes, missing weights, a restore that went wrong."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import structlog
import torch
from modal.exception import InputCancellation
from torch.overrides import TorchFunctionMode

from anime_studio.checkpoints.store import Checkpoint
from anime_studio.core.decoders import Decoder
from anime_studio.core.errors import EngineError, JobCancelledError, OutOfMemoryError
from anime_studio.core.jobs import JobRecord, RenderedClip
from anime_studio.core.recipes import Recipe, get_recipe
from anime_studio.engine import device_check, startup
from anime_studio.engine.engine import Engine
from anime_studio.engine.loading.prepare import packing_of, prepare
from anime_studio.engine.startup import start_engine, start_text_encoder
from anime_studio.on_modal import gpu_worker
from anime_studio.on_modal.gpu_worker import GpuWorker, LoadEngine
from anime_studio.on_modal.settings import ModalSettings
from anime_studio.telemetry import LogEvent
from common.schemas import GenerateRequest, JobState, Problem, StartKind
from support.jobs import new_job
from support.smaller_decoders import tiny_weights, write_decoder

pytestmark = pytest.mark.modal

MODES = ("gpu", "cpu", "off")
REQUEST = GenerateRequest(prompt="a cat on a roof", duration=0.5, seed=7)


@pytest.fixture
def models(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_checkpoint, tmp_path / "models" / "tiny-random" / "random-0")
    return tmp_path / "models"


@pytest.fixture
def settings(models: Path) -> ModalSettings:
    return ModalSettings(recipe="tiny-random", gpu=None, device="cpu", models_dir=models)


@pytest.fixture
def logged() -> Iterator[list[dict[str, object]]]:
    with structlog.testing.capture_logs() as lines:
        yield lines


class InMemoryWorkerStore:
    """Stores in memory what a worker saves; `ModalWorkerStore` has its own tests, against a control plane."""

    def __init__(self, cancel: Problem | None = None) -> None:
        self.saved: list[JobRecord] = []
        self.cancel = cancel

    def __enter__(self) -> "InMemoryWorkerStore":
        return self

    def __exit__(self, *_: object) -> None: ...

    @property
    def newest(self) -> JobRecord | None:
        return self.saved[-1] if self.saved else None

    def claim(self, job: JobRecord) -> JobRecord:
        self.save(job.claimed(job.created_at))
        return self.saved[-1]

    def save(self, job: JobRecord) -> None:
        self.saved.append(job)

    def cancel_requested(self, job_id: str) -> bool:
        return False

    def cancel_of_owner(self, job_id: str) -> Problem | None:
        return self.cancel


class NoClips:
    def publish(self, clip_id: str, rendered: object) -> object:
        raise AssertionError("no clip may be published")


class TwoContainers:
    """The ids of the container that a snapshot is taken of, and of the one that it is restored in."""

    def __init__(self) -> None:
        self.restored = False

    def __call__(self) -> str:
        return "ta-restored" if self.restored else "ta-first"

    def restore(self, worker: GpuWorker) -> None:
        self.restored = True
        worker.after_snapshot()


@pytest.fixture
def containers() -> TwoContainers:
    return TwoContainers()


class RecordingEngine(Engine):
    """An engine that records when it is put to sleep and woken up."""

    acts: tuple[str, ...] = ()

    def sleep(self) -> None:
        self.acts += ("sleep",)

    def wake_up(self) -> None:
        self.acts += ("wake_up",)


class CancelledByModal(Engine):
    """An engine whose container is sent Modal's cancel while it renders."""

    def render(self, *_: object) -> RenderedClip:
        raise InputCancellation("the input was cancelled")


class NoRoomToSleep(Engine):
    def sleep(self) -> None:
        raise OutOfMemoryError("no room for the weights")


class NoRoomToWakeUp(Engine):
    def wake_up(self) -> None:
        raise OutOfMemoryError("no room for the weights")


def loading(*kinds: type[Engine]) -> LoadEngine:
    """Load each of *kinds* in turn, over real components."""
    following = iter(kinds)

    def load(recipe: Recipe, checkpoint: Checkpoint, settings: ModalSettings) -> Engine:
        loaded = start_engine(recipe, checkpoint, device="cpu", accelerate=settings.accelerate)
        return next(following)(loaded.components, recipe, revision=checkpoint.revision)

    return load


def failing_at(*checks: int) -> Callable[[ModalSettings], None]:
    """A device that computes wrongly at the given checks, counted from one."""
    done = 0

    def check(_: ModalSettings) -> None:
        nonlocal done
        done += 1
        if done in checks:
            raise EngineError("cuda:0 computes wrongly")

    return check


@pytest.mark.parametrize("mode", MODES)
def test_a_container_is_ready_in_each_snapshot_mode_with_hooks_run_back_to_back(
    settings: ModalSettings, logged: list[dict[str, object]], mode: str
):
    worker = GpuWorker(settings.model_copy(update={"snapshot": mode}))
    worker.before_snapshot()
    worker.after_snapshot()
    assert worker.generate(REQUEST)[4:8] == b"ftyp"
    (ready,) = [line for line in logged if line["event"] == LogEvent.GENERATOR_READY]
    assert ready["start_kind"] == "cold" and ready["revision"] == "random-0"


@pytest.mark.parametrize("mode", MODES)
def test_a_container_restored_elsewhere_generates_the_same_clip(
    settings: ModalSettings, containers: TwoContainers, mode: str
):
    settings = settings.model_copy(update={"snapshot": mode})
    cold = GpuWorker(settings)
    cold.before_snapshot()
    assert (cold.engine is not None) == (mode == "gpu"), "only a GPU snapshot may hold the model"
    cold.after_snapshot()
    restored = GpuWorker(settings, task_id=containers)
    restored.before_snapshot()
    random_state = torch.get_rng_state()
    containers.restore(restored)
    assert restored.start_kind is StartKind.RESTORED
    assert not torch.equal(torch.get_rng_state(), random_state), (
        "every restored container would choose the same seeds"
    )
    assert restored.generate(REQUEST) == cold.generate(REQUEST)


class TextHere:
    """Stands for the text container: the same encoder in this process."""

    def __init__(self, settings: ModalSettings, models: Path) -> None:
        checkpoint = Checkpoint.at(models / "tiny-random" / "random-0")
        encoder = start_text_encoder(get_recipe(settings.recipe), checkpoint, for_gpu=False)
        self.text_of = encoder.text_of
        self.call_id: str | None = None


def no_look_at_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def looked(*_: object) -> None:
        raise AssertionError("torch looked for a GPU before there was one")

    for name in ("is_available", "device_count", "_lazy_init", "init"):
        monkeypatch.setattr(torch.cuda, name, looked)


@pytest.mark.parametrize("problem", [None, "restore", "other weights"])
def test_a_cpu_snapshot_holds_prepared_weights_and_looks_for_no_gpu(
    settings: ModalSettings,
    models: Path,
    containers: TwoContainers,
    monkeypatch: pytest.MonkeyPatch,
    problem: str | None,
):
    settings = settings.model_copy(update={"snapshot": "cpu"})
    checkpoint = Checkpoint.at(models / "tiny-random" / "random-0")
    folder = prepare(checkpoint, packing_of("cpu"))
    text = TextHere(settings, models)
    sound = GpuWorker(settings.model_copy(update={"snapshot": "off"}), text=text)  # type: ignore[arg-type]
    sound.after_snapshot()
    expected = sound.generate(REQUEST)
    worker = GpuWorker(settings, text=text, task_id=containers)  # type: ignore[arg-type]
    with monkeypatch.context() as patched:
        no_look_at_the_gpu(patched)
        worker.before_snapshot()
    assert worker._weights is not None
    if problem == "restore":
        with torch.no_grad():
            next(worker._weights[1].transformer.parameters()).flatten()[0] += 1
    elif problem == "other weights":
        worker._weights = (replace(checkpoint, revision="older"), *worker._weights[1:])
    else:
        shutil.rmtree(folder / "transformer")  # nothing is read again

    containers.restore(worker)

    assert worker.start_kind is (StartKind.RECOVERED if problem == "restore" else StartKind.RESTORED)
    assert worker.generate(REQUEST) == expected


@pytest.mark.parametrize("mode", MODES)
def test_an_engine_sleeps_in_a_snapshot_that_holds_it_and_is_awake_when_its_container_is_ready(
    settings: ModalSettings, mode: str
):
    worker = GpuWorker(settings.model_copy(update={"snapshot": mode}), load=loading(RecordingEngine))
    worker.before_snapshot()
    assert mode != "gpu" or (isinstance(worker.engine, RecordingEngine) and worker.engine.acts == ("sleep",))
    worker.after_snapshot()
    assert isinstance(worker.engine, RecordingEngine)
    assert worker.engine.acts == (("sleep", "wake_up") if mode == "gpu" else ())


def test_without_host_memory_to_sleep_in_the_snapshot_is_larger_and_the_log_says_so(
    settings: ModalSettings, containers: TwoContainers, logged: list[dict[str, object]]
):
    worker = GpuWorker(settings, load=loading(NoRoomToSleep), task_id=containers)
    worker.before_snapshot()
    containers.restore(worker)
    assert worker.start_kind is StartKind.RESTORED
    assert worker.generate(REQUEST)[4:8] == b"ftyp"
    (failed,) = [line for line in logged if line["event"] == LogEvent.GENERATOR_SLEEP_FAILED]
    assert "no room" in str(failed["detail"])


@pytest.mark.parametrize("problem", ["weights", "device", "waking up"])
def test_a_bad_restore_is_seen_and_survived(
    settings: ModalSettings, containers: TwoContainers, logged: list[dict[str, object]], problem: str
):
    worker = GpuWorker(
        settings,
        load=loading(NoRoomToWakeUp if problem == "waking up" else Engine, Engine),
        check=failing_at(2) if problem == "device" else None,
        task_id=containers,
    )
    worker.before_snapshot()
    assert worker.engine is not None
    if problem == "weights":
        with torch.no_grad():
            next(worker.engine.components.transformer.parameters()).flatten()[0] += 1
    containers.restore(worker)
    assert worker.start_kind is StartKind.RECOVERED
    sound = GpuWorker(settings)
    sound.before_snapshot()
    assert worker.generate(REQUEST) == sound.generate(REQUEST)
    assert [line["event"] for line in logged].count(LogEvent.GENERATOR_BAD_RESTORE) == 1
    assert worker.start_s > 0, "the reload is on the first job's receipt"


def test_a_device_that_keeps_failing_leaves_the_container_to_be_given_back(
    settings: ModalSettings, containers: TwoContainers
):
    worker = GpuWorker(settings, check=failing_at(2, 3), task_id=containers)
    worker.before_snapshot()
    containers.restore(worker)
    assert worker.device_failed and worker.engine is None
    with pytest.raises(EngineError, match="computes wrongly"):
        worker.generate(REQUEST)


@pytest.mark.parametrize("by_owner", [True, False], ids=["by its owner", "by the platform"])
def test_a_cancel_ends_the_job_only_if_its_owner_asked(settings: ModalSettings, by_owner: bool):
    worker = GpuWorker(settings, load=loading(CancelledByModal))
    worker.before_snapshot()
    worker.after_snapshot()
    job = new_job()
    cancel = JobCancelledError(f"job {job.job_id} was cancelled by its owner").problem(job.request_id)
    store = InMemoryWorkerStore(cancel if by_owner else None)

    with pytest.raises(InputCancellation):
        worker.render(job.model_dump(mode="json"), store, NoClips())  # type: ignore[arg-type]

    ended = [record for record in store.saved if record.state.final]
    assert [(record.state, record.error) for record in ended] == (
        [(JobState.CANCELLED, cancel)] if by_owner else []
    ), "Modal runs a call again that it cancelled by itself"


def test_without_a_driver_the_hooks_do_not_raise(settings: ModalSettings):
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA driver")
    worker = GpuWorker(settings.model_copy(update={"gpu": "L4", "device": "auto"}))
    worker.before_snapshot()
    worker.after_snapshot()
    assert worker.device_failed and worker.error is not None and "no CUDA driver" in worker.error.detail


@pytest.mark.parametrize("mode", MODES)
def test_without_weights_the_hooks_do_not_raise_and_each_job_fails_with_the_command_that_fetches_them(
    tmp_path: Path, logged: list[dict[str, object]], mode: str
):
    settings = ModalSettings(recipe="fastwan-3step", gpu="L4", models_dir=tmp_path, snapshot=mode)  # type: ignore[arg-type]
    worker = GpuWorker(settings)
    worker.before_snapshot()
    worker.after_snapshot()
    worker_store = InMemoryWorkerStore()
    answer = worker.render(new_job().model_dump(mode="json"), worker_store, NoClips())  # type: ignore[arg-type]
    record = JobRecord.model_validate(answer["record"])
    assert record.state is JobState.FAILED and worker_store.saved[-1] == record
    assert record.error is not None and record.error.code == "weights_missing"
    assert "modal run -m anime_studio.modal_app::setup --recipe fastwan-3step" in record.error.detail
    assert LogEvent.GENERATOR_BLOCKED in [line["event"] for line in logged]


def test_without_the_decoders_file_each_job_fails_with_the_command_that_fetches_it(settings: ModalSettings):
    worker = GpuWorker(settings.model_copy(update={"decoder": Decoder.TINY}))
    worker.before_snapshot()
    worker.after_snapshot()
    assert worker.error is not None
    assert "modal_app::setup --recipe tiny-random --decoder tiny" in worker.error.detail


def test_a_container_decodes_with_the_decoder_of_its_settings(settings: ModalSettings, models: Path):
    write_decoder(models, Decoder.TINY, tiny_weights())
    worker = GpuWorker(settings.model_copy(update={"decoder": Decoder.TINY}))
    worker.before_snapshot()
    worker.after_snapshot()
    answer = worker.render(new_job().model_dump(mode="json"), InMemoryWorkerStore(), NoClips())  # type: ignore[arg-type]
    assert answer["record"]["spec"]["decoder"] == "tiny"
    assert worker.generate(REQUEST)


def test_prepared_weights_are_what_a_container_loads_and_a_damaged_shard_costs_no_start(
    settings: ModalSettings, models: Path, logged: list[dict[str, object]]
):
    plain = GpuWorker(settings)
    plain.before_snapshot()
    checkpoint = Checkpoint.at(models / "tiny-random" / "random-0")
    folder = prepare(checkpoint, packing_of("cpu"))
    worker = GpuWorker(settings)
    worker.before_snapshot()
    worker.after_snapshot()

    assert worker.engine is not None and plain.engine is not None
    assert device_check.fingerprint(worker.engine.components) == device_check.fingerprint(
        plain.engine.components
    )
    shard = folder / "transformer" / "00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    damaged = GpuWorker(settings)
    damaged.before_snapshot()
    damaged.after_snapshot()
    assert damaged.engine is not None and damaged.error is None
    assert device_check.fingerprint(damaged.engine.components) == device_check.fingerprint(
        plain.engine.components
    )
    assert damaged.generate(REQUEST)[4:8] == b"ftyp"
    (refused,) = [line for line in logged if line["event"] == LogEvent.ENGINE_PREPARED_REFUSED]
    assert "transformer/00001.safetensors" in str(refused["detail"])
    assert "on Modal: setup does it" in str(refused["detail"])
    ready = [line["loaded_from"] for line in logged if line["event"] == LogEvent.GENERATOR_READY]
    assert ready == [folder.name, "random-0"]


def test_a_container_with_a_damaged_source_names_the_file(settings: ModalSettings, models: Path):
    path = models / "tiny-random" / "random-0" / "vae/diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    worker = GpuWorker(settings)
    worker.before_snapshot()

    assert worker.engine is None and worker.error is not None
    assert worker.error.code == "checkpoint_invalid"
    assert "random-0/vae/diffusion_pytorch_model.safetensors" in worker.error.detail


def test_weights_fetched_since_the_snapshot_are_found_at_the_next_start(
    settings: ModalSettings, containers: TwoContainers, models: Path, tmp_path: Path
):
    shutil.move(models / "tiny-random", tmp_path / "aside")
    worker = GpuWorker(settings, task_id=containers)
    worker.before_snapshot()
    assert worker.error is not None
    shutil.move(tmp_path / "aside", models / "tiny-random")
    containers.restore(worker)
    assert worker.generate(REQUEST)[4:8] == b"ftyp"


class WrongProducts(TorchFunctionMode):
    """A device whose matrix products are off by one."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        return result + 1 if func is torch.Tensor.matmul else result


def test_the_known_computation_is_right_here_and_a_wrong_product_is_refused():
    device_check.check_device(torch.device("cpu"))
    with WrongProducts(), pytest.raises(EngineError, match="computes wrongly"):
        device_check.check_device(torch.device("cpu"))


def test_a_fingerprint_covers_weights_on_any_device_and_of_any_type():
    class Mixed(torch.nn.Module):
        def __init__(self, last: float) -> None:
            super().__init__()
            self.register_buffer("table", torch.tensor([1.0, 2.0]))
            self.register_buffer("packed", torch.tensor([last, 0.5]).to(torch.float8_e4m3fn))
            self.register_buffer("count", torch.tensor(3))

    def components(last: float) -> SimpleNamespace:
        return SimpleNamespace(models={"transformer": Mixed(last), "vae": Mixed(1)}, device="cpu")

    assert device_check.fingerprint(components(1)) == device_check.fingerprint(components(1))  # type: ignore[arg-type]
    assert device_check.fingerprint(components(1)) != device_check.fingerprint(components(2))  # type: ignore[arg-type]


class KernelsThatAct:
    """Stands for the kernels on the Volume, of which a CPU has none: records what is asked of it."""

    def __init__(self, *, found: bool) -> None:
        self.found = found
        self.acts: list[str] = []

    def restore(self, *_: object) -> bool:
        self.acts.append("restore")
        return self.found

    def keep(self, *, replace: bool) -> None:
        self.acts.append(f"keep, replace={replace}")


@pytest.mark.parametrize("found", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_kernels_are_found_before_the_model_is_warmed_up_and_kept_once_the_container_is_ready(
    settings: ModalSettings, monkeypatch: pytest.MonkeyPatch, mode: str, found: bool
):
    kernels = KernelsThatAct(found=found)
    real = gpu_worker._load_engine

    def load(*given: object, every_shape: bool, **rest: object) -> Engine:
        kernels.acts.append(f"load, every_shape={every_shape}")
        return real(*given, every_shape=every_shape, **rest)

    monkeypatch.setattr(gpu_worker, "_load_engine", load)
    worker = GpuWorker(settings.model_copy(update={"snapshot": mode}), kernels=kernels)
    worker.before_snapshot()
    assert not any(act.startswith("keep") for act in kernels.acts), "nothing is uploaded inside a snapshot"
    worker.after_snapshot()
    every_shape = mode == "gpu" or not found  # a GPU snapshot holds every shape, for all starts from it
    assert kernels.acts == ["restore", f"load, every_shape={every_shape}", "keep, replace=True"]


@pytest.mark.parametrize("mode", MODES)
def test_a_start_warms_up_once(settings: ModalSettings, monkeypatch: pytest.MonkeyPatch, mode: str):
    real, warmed = startup.warm_up, []

    def warm_up(engine: Engine, *, every_shape: bool = True) -> None:
        warmed.append(every_shape)
        real(engine, every_shape=every_shape)

    monkeypatch.setattr(startup, "warm_up", warm_up)
    worker = GpuWorker(settings.model_copy(update={"snapshot": mode}))
    worker.before_snapshot()
    worker.after_snapshot()
    assert warmed == [True]


def test_a_restored_container_replaces_no_kernels(settings: ModalSettings, containers: TwoContainers):
    kernels = KernelsThatAct(found=False)
    worker = GpuWorker(settings, kernels=kernels, task_id=containers)
    worker.before_snapshot()
    containers.restore(worker)
    assert kernels.acts == ["restore", "keep, replace=False"]


def test_a_cpu_snapshot_of_a_gpu_container_holds_torchs_compiler(models: Path):
    """In a process of its own: here the compiler may be imported already. It must look for no GPU."""
    code = f"""
import sys
from pathlib import Path
import torch

def looked(*_):
    raise AssertionError("torch looked for a GPU before there was one")

for name in ("is_available", "device_count", "_lazy_init", "init"):
    setattr(torch.cuda, name, looked)
from anime_studio.on_modal.gpu_worker import GpuWorker
from anime_studio.on_modal.settings import ModalSettings

worker = GpuWorker(ModalSettings(snapshot="cpu", models_dir=Path({str(models)!r})))
worker.before_snapshot()
assert "torch._inductor.compile_fx" in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
