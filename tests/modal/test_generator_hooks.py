"""The Generator's hooks and methods, run here: three snapshot modes, missing weights, a restore that went wrong."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import structlog
import torch

from anime_studio import modal_app
from anime_studio.core.errors import EngineError, OutOfMemoryError
from anime_studio.core.jobs import JobRecord
from anime_studio.core.recipes import TINY_RANDOM
from anime_studio.engine import probe
from anime_studio.engine.engine import Engine
from anime_studio.engine.preparing import packing_of, prepare
from anime_studio.generator import (
    GENERATOR_BAD_RESTORE,
    GENERATOR_BLOCKED,
    GENERATOR_READY,
    GENERATOR_RESTLESS,
    GeneratorWorker,
)
from anime_studio.modal_settings import ModalSettings
from anime_studio.prepared import Forms
from anime_studio.telemetry import ENGINE_PREPARED_REFUSED
from common.schemas import GenerateRequest, JobState, StartKind
from support.jobs import new_job

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
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, object]]]:
    monkeypatch.setattr("anime_studio.telemetry.configure_logging", lambda *_, **__: None)
    with structlog.testing.capture_logs() as lines:
        yield lines


class PaperDesk:
    """Keeps what a worker saves; a real desk needs a control plane, and has its own tests."""

    def __init__(self) -> None:
        self.saved: list[JobRecord] = []

    def __enter__(self) -> "PaperDesk":
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


class NoClips:
    def publish(self, clip_id: str, rendered: object) -> object:
        raise AssertionError("no clip may be published")


def wake_elsewhere(worker: GeneratorWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go on as a container restored from a snapshot does: with another task id (client 1.6.4)."""
    monkeypatch.setenv("MODAL_TASK_ID", "ta-restored")
    worker.after_snapshot()


@pytest.mark.parametrize("mode", MODES)
def test_the_class_draws_in_each_snapshot_mode_with_hooks_run_back_to_back(
    monkeypatch: pytest.MonkeyPatch, settings: ModalSettings, told: list[dict[str, object]], mode: str
):
    monkeypatch.setattr(modal_app, "settings", settings.model_copy(update={"snapshot": mode}))
    clip = modal_app.Generator().generate.local("a cat on a roof", duration=0.5, seed=7)
    assert clip[4:8] == b"ftyp"
    (ready,) = [line for line in told if line["event"] == GENERATOR_READY]
    assert ready["start_kind"] == "cold" and ready["revision"] == "random-0"


@pytest.mark.parametrize("mode", MODES)
def test_a_worker_restored_elsewhere_draws_the_same_clip(
    monkeypatch: pytest.MonkeyPatch, settings: ModalSettings, mode: str
):
    settings = settings.model_copy(update={"snapshot": mode})
    cold = GeneratorWorker(settings)
    cold.before_snapshot()
    assert (cold.engine is not None) == (mode == "gpu"), "only a GPU snapshot may hold the model"
    cold.after_snapshot()
    restored = GeneratorWorker(settings)
    restored.before_snapshot()
    random_state = torch.get_rng_state()
    wake_elsewhere(restored, monkeypatch)
    assert restored.engine is not None and restored.engine.start_kind is StartKind.RESTORED
    assert not torch.equal(torch.get_rng_state(), random_state), (
        "every restored container would draw the same seeds"
    )
    assert restored.draw(REQUEST) == cold.draw(REQUEST)


@pytest.mark.parametrize("mode", MODES)
def test_an_engine_rests_for_a_snapshot_that_holds_it_and_is_awake_when_its_container_is_ready(
    monkeypatch: pytest.MonkeyPatch, settings: ModalSettings, mode: str
):
    acts: list[str] = []
    monkeypatch.setattr(Engine, "rest", lambda _: acts.append("rest"))
    monkeypatch.setattr(Engine, "wake", lambda _: acts.append("wake"))
    worker = GeneratorWorker(settings.model_copy(update={"snapshot": mode}))
    worker.before_snapshot()
    assert acts == (["rest"] if mode == "gpu" else [])
    worker.after_snapshot()
    assert acts == (["rest", "wake"] if mode == "gpu" else [])


def test_without_room_to_rest_in_the_snapshot_is_larger_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, settings: ModalSettings, told: list[dict[str, object]]
):
    monkeypatch.setattr(Engine, "rest", lambda _: _no_room())
    worker = GeneratorWorker(settings)
    worker.before_snapshot()
    wake_elsewhere(worker, monkeypatch)
    assert worker.engine is not None and worker.engine.start_kind is StartKind.RESTORED
    assert worker.draw(REQUEST)[4:8] == b"ftyp"
    (restless,) = [line for line in told if line["event"] == GENERATOR_RESTLESS]
    assert "no room" in str(restless["detail"])


@pytest.mark.parametrize("fault", ["weights", "device", "waking"])
def test_a_bad_restore_is_seen_and_survived(
    monkeypatch: pytest.MonkeyPatch, settings: ModalSettings, told: list[dict[str, object]], fault: str
):
    worker = GeneratorWorker(settings)
    worker.before_snapshot()
    assert worker.engine is not None
    before = worker.draw(REQUEST)
    if fault == "weights":
        with torch.no_grad():
            next(worker.engine.components.transformer.parameters()).flatten()[0] += 1
    elif fault == "waking":
        monkeypatch.setattr(worker.engine, "wake", _no_room)
    else:
        check, calls = probe.check_device, iter((True, False))
        monkeypatch.setattr(probe, "check_device", lambda device: _fail() if next(calls) else check(device))
    wake_elsewhere(worker, monkeypatch)
    assert worker.engine.start_kind is StartKind.RECOVERED
    assert worker.draw(REQUEST) == before
    assert [line["event"] for line in told].count(GENERATOR_BAD_RESTORE) == 1
    assert worker.start_s > 0, "the reload is on the first job's receipt"


def test_a_device_that_keeps_failing_leaves_the_container_to_be_given_back(
    monkeypatch: pytest.MonkeyPatch, settings: ModalSettings
):
    worker = GeneratorWorker(settings)
    worker.before_snapshot()
    monkeypatch.setattr(probe, "check_device", lambda _: _fail())
    wake_elsewhere(worker, monkeypatch)
    assert worker.device_failed and worker.engine is None
    with pytest.raises(EngineError, match="computes wrongly"):
        worker.draw(REQUEST)


def test_without_a_driver_the_hooks_do_not_raise(settings: ModalSettings):
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA driver")
    worker = GeneratorWorker(settings.model_copy(update={"gpu": "L4", "device": "auto"}))
    worker.before_snapshot()
    worker.after_snapshot()
    assert worker.device_failed and worker.fault is not None and "no CUDA driver" in worker.fault.detail


@pytest.mark.parametrize("mode", MODES)
def test_without_weights_the_hooks_do_not_raise_and_each_job_fails_with_the_remedy(
    tmp_path: Path, told: list[dict[str, object]], mode: str
):
    settings = ModalSettings(recipe="fastwan-3step", gpu=None, models_dir=tmp_path, snapshot=mode)  # type: ignore[arg-type]
    worker = GeneratorWorker(settings)
    worker.before_snapshot()
    worker.after_snapshot()
    desk = PaperDesk()
    answer = worker.render(new_job().model_dump(mode="json"), desk, NoClips())  # type: ignore[arg-type]
    record = JobRecord.model_validate(answer["record"])
    assert record.state is JobState.FAILED and desk.saved[-1] == record
    assert record.error is not None and record.error.code == "weights_missing"
    assert "modal run -m anime_studio.modal_app::setup --recipe fastwan-3step" in record.error.detail
    assert GENERATOR_BLOCKED in [line["event"] for line in told]


def test_prepared_weights_are_what_a_container_loads_and_a_damaged_shard_costs_no_start(
    settings: ModalSettings, models: Path, told: list[dict[str, object]]
):
    plain = GeneratorWorker(settings)
    plain.before_snapshot()
    forms = Forms.of(TINY_RANDOM, models / "tiny-random" / "random-0", models)
    folder = prepare(forms, packing_of("cpu", accelerate=settings.accelerate))
    worker = GeneratorWorker(settings)
    worker.before_snapshot()
    worker.after_snapshot()

    assert worker.engine is not None and plain.engine is not None
    assert probe.fingerprint(worker.engine.components) == probe.fingerprint(plain.engine.components)
    shard = folder / "transformer" / "00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    damaged = GeneratorWorker(settings)
    damaged.before_snapshot()
    damaged.after_snapshot()
    assert damaged.engine is not None and damaged.fault is None
    assert probe.fingerprint(damaged.engine.components) == probe.fingerprint(plain.engine.components)
    assert damaged.draw(REQUEST)[4:8] == b"ftyp"
    (refused,) = [line for line in told if line["event"] == ENGINE_PREPARED_REFUSED]
    assert "transformer/00001.safetensors" in str(refused["detail"])
    assert "on Modal: setup does it" in str(refused["detail"])
    ready = [line["loaded_from"] for line in told if line["event"] == GENERATOR_READY]
    assert ready == [folder.name, "random-0"]


def test_a_container_with_neither_form_nor_source_whole_names_both(settings: ModalSettings, models: Path):
    source = models / "tiny-random" / "random-0"
    form = prepare(Forms.of(TINY_RANDOM, source, models), packing_of("cpu", accelerate=settings.accelerate))
    for path in (source / "vae/diffusion_pytorch_model.safetensors", form / "text_encoder/00001.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    worker = GeneratorWorker(settings)
    worker.before_snapshot()

    assert worker.engine is None and worker.fault is not None
    assert worker.fault.code == "checkpoint_invalid"
    assert "random-0/vae/diffusion_pytorch_model.safetensors" in worker.fault.detail
    assert f"{form.name}/text_encoder/00001.safetensors" in worker.fault.detail


def test_weights_fetched_since_the_snapshot_are_found_at_the_next_start(
    monkeypatch: pytest.MonkeyPatch, settings: ModalSettings, models: Path, tmp_path: Path
):
    shutil.move(models / "tiny-random", tmp_path / "aside")
    worker = GeneratorWorker(settings)
    worker.before_snapshot()
    assert worker.fault is not None
    shutil.move(tmp_path / "aside", models / "tiny-random")
    wake_elsewhere(worker, monkeypatch)
    assert worker.draw(REQUEST)[4:8] == b"ftyp"


def test_generate_says_in_a_type_that_every_caller_has_why_it_cannot(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, told: list[dict[str, object]]
):
    settings = ModalSettings(recipe="fastwan-3step", gpu=None, models_dir=tmp_path)
    monkeypatch.setattr(modal_app, "settings", settings)
    with pytest.raises(RuntimeError, match=r"weights_missing.*modal run"):
        modal_app.Generator().generate.local("a cat on a roof")


def test_the_known_computation_is_right_here_and_a_wrong_product_is_refused(monkeypatch: pytest.MonkeyPatch):
    probe.check_device(torch.device("cpu"))
    wrong = torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: wrong(a, b) + 1)
    with pytest.raises(EngineError, match="computes wrongly"):
        probe.check_device(torch.device("cpu"))


def test_a_fingerprint_covers_weights_on_any_device_and_of_any_type():
    class Mixed(torch.nn.Module):
        def __init__(self, last: float) -> None:
            super().__init__()
            self.register_buffer("table", torch.tensor([1.0, 2.0]))
            self.register_buffer("packed", torch.tensor([last, 0.5]).to(torch.float8_e4m3fn))
            self.register_buffer("count", torch.tensor(3))

    def components(last: float) -> SimpleNamespace:
        return SimpleNamespace(text_encoder=Mixed(1), transformer=Mixed(last), vae=Mixed(1), device="cpu")

    assert probe.fingerprint(components(1)) == probe.fingerprint(components(1))  # type: ignore[arg-type]
    assert probe.fingerprint(components(1)) != probe.fingerprint(components(2))  # type: ignore[arg-type]


def _no_room() -> None:
    raise OutOfMemoryError("no room for the weights")


def _fail() -> None:
    raise EngineError("cuda:0 computes wrongly")
