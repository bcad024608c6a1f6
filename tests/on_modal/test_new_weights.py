"""Weights are changed under a deployment: a container follows between two jobs, or goes on with the old ones."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from modal.exception import InputCancellation

from anime_studio.checkpoints import store
from anime_studio.checkpoints.store import Checkpoint
from anime_studio.core.errors import ReportedError, UnavailableError
from anime_studio.core.notes import WEIGHTS_REFUSED, WEIGHTS_SWAPPED
from anime_studio.core.recipes import TINY_RANDOM, Recipe
from anime_studio.engine.engine import Engine
from anime_studio.engine.loading.prepare import packing_of, prepare
from anime_studio.engine.loading.tiny_random import write_tiny_random
from anime_studio.on_modal.gpu_worker import GpuWorker
from anime_studio.on_modal.gpu_worker import _load_engine as load_engine
from anime_studio.on_modal.remote_text import RemoteText
from anime_studio.on_modal.settings import ModalSettings
from anime_studio.on_modal.text_worker import TextWorker
from anime_studio.telemetry import LogEvent
from common.schemas import GenerateRequest
from support.engine import spec_of

pytestmark = pytest.mark.modal

OLD, NEW, GONE = "random-0", "b" * 40, "c" * 40
MODES = ("gpu", "cpu", "off")
REQUEST = GenerateRequest(prompt="a cat on a roof", duration=0.5, seed=7)


@pytest.fixture
def models(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "tiny-random"
    shutil.copytree(tiny_checkpoint, folder / OLD)
    prepare(Checkpoint.at(folder / OLD), packing_of("cpu"))  # a CPU snapshot holds nothing else
    write_tiny_random(folder / NEW, seed=1)
    return tmp_path / "models"


@pytest.fixture
def settings(models: Path) -> ModalSettings:
    return ModalSettings(recipe="tiny-random", gpu=None, device="cpu", models_dir=models)


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as lines:
        yield lines


@pytest.fixture
def expected(settings: ModalSettings, models: Path) -> dict[str, bytes]:
    """The clip of each revision, made by a container that never saw the other one."""
    clips = {}
    for revision in (NEW, OLD):
        store.use(TINY_RANDOM, models, revision)
        clips[revision] = ready(settings.model_copy(update={"snapshot": "off"})).generate(REQUEST)
    (models / "tiny-random" / store.IN_USE).unlink()
    assert clips[OLD] != clips[NEW]
    return clips


def ready(settings: ModalSettings, restore: Callable[[], None] | None = None, **parts: Any) -> GpuWorker:
    """A container after both hooks, restored elsewhere after *restore* where that is given."""
    ids = iter(["ta-first", "ta-second" if restore else "ta-first"])
    worker = GpuWorker(settings, task_id=lambda: next(ids), **parts)
    worker.before_snapshot()
    if restore is not None:
        restore()
    worker.after_snapshot()
    if restore is None:
        worker._fresh_until = 0.0  # its first job comes late
    return worker


def notes(worker: GpuWorker) -> list[str]:
    assert worker._runner is not None
    return [note.code for note in worker._runner.notes]


def name(models: Path, revision: str) -> None:
    """Write `in_use` as a person might, without a look at what it names."""
    (models / "tiny-random" / store.IN_USE).write_text(f"{revision}\n")


@pytest.mark.parametrize("mode", MODES)
def test_a_restored_container_loads_what_is_named_now(settings, models, expected, mode):
    settings = settings.model_copy(update={"snapshot": mode})
    worker = ready(settings, lambda: store.use(TINY_RANDOM, models, NEW) and None, text=text_here(settings))

    assert worker.checkpoint.revision == NEW
    assert worker.generate(REQUEST) == expected[NEW]
    assert notes(worker) == ([] if mode == "off" else [WEIGHTS_SWAPPED]), (
        "without a snapshot no start is slower"
    )


def test_a_container_that_runs_follows_before_its_next_job_and_back(settings, models, expected):
    worker = ready(settings)
    assert worker.generate(REQUEST) == expected[OLD] and notes(worker) == []
    worker.start_s = 0.0

    store.use(TINY_RANDOM, models, NEW)
    assert worker.generate(REQUEST) == expected[NEW] and notes(worker) == [WEIGHTS_SWAPPED]
    assert worker.start_s > 0, "the job that waited for it is billed"

    store.use(TINY_RANDOM, models, OLD)
    assert worker.generate(REQUEST) == expected[OLD] and notes(worker) == []


def absent(models: Path) -> None:
    name(models, GONE)


def truncated(models: Path) -> None:
    store.use(TINY_RANDOM, models, NEW)
    file = models / "tiny-random" / NEW / "transformer/diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def not_a_name(models: Path) -> None:
    name(models, "main")


@pytest.mark.parametrize("mode", ("gpu", "cpu"))
@pytest.mark.parametrize(
    ("problem", "words"),
    [(absent, "modal_app::setup"), (truncated, "has "), (not_a_name, "which is no revision")],
    ids=["absent", "damaged", "no name"],
)
@pytest.mark.parametrize("when", ["restore", "job"])
def test_weights_that_cannot_be_used_leave_the_old_ones_and_one_error(
    settings, models, expected, logged, mode, problem, words, when
):
    settings = settings.model_copy(update={"snapshot": mode})
    text = text_here(settings)
    if when == "restore":
        worker = ready(settings, lambda: problem(models), text=text)
    else:
        worker = ready(settings, text=text)
        problem(models)

    clips = [worker.generate(REQUEST) for _ in range(3)]
    assert [clip == expected[OLD] for clip in clips] == [True] * 3
    assert notes(worker) == [WEIGHTS_REFUSED] and not worker.device_failed
    (error,) = [line for line in logged if line["event"] == LogEvent.WEIGHTS_REFUSED]
    assert words in error["detail"] and error["revision"] == OLD
    assert worker._runner.notes[0].detail.startswith(f"made with the weights {OLD}")


def test_a_start_without_usable_weights_says_so_and_takes_those_that_come(settings, models, expected):
    name(models, GONE)
    worker = ready(settings)
    assert (
        worker.error is not None and GONE in worker.error.detail and "modal_app::use" in worker.error.detail
    )

    store.use(TINY_RANDOM, models, NEW)

    assert worker.generate(REQUEST) == expected[NEW]


def test_weights_that_were_mended_are_taken_when_they_are_named_again(settings, models, expected, tmp_path):
    shutil.copytree(models / "tiny-random" / NEW, tmp_path / "sound")
    worker = ready(settings)
    truncated(models)
    assert worker.generate(REQUEST) == expected[OLD]

    shutil.copytree(tmp_path / "sound", models / "tiny-random" / NEW, dirs_exist_ok=True)
    store.use(TINY_RANDOM, models, NEW)

    assert worker.generate(REQUEST) == expected[NEW]


def test_a_cancel_while_the_new_weights_load_leaves_a_container_that_loads_them_for_the_next_job(
    settings, models, expected
):
    loads = 0

    def load(recipe: Recipe, checkpoint: Checkpoint, settings: ModalSettings) -> Engine:
        nonlocal loads
        loads += 1
        if loads == 2:
            raise InputCancellation("the input was cancelled")
        return load_engine(recipe, checkpoint, settings, text=None, weights=None, every_shape=True)

    worker = ready(settings, load=load)
    store.use(TINY_RANDOM, models, NEW)
    with pytest.raises(InputCancellation):
        worker.generate(REQUEST)

    assert worker.checkpoint.revision == OLD, "nothing was half taken"
    assert worker.generate(REQUEST) == expected[NEW]


def test_a_volume_that_cannot_be_read_anew_costs_no_job(settings, models, expected, logged):
    def refused() -> None:
        raise RuntimeError("there are open files preventing the operation")

    worker = ready(settings, refresh=refused)

    assert worker.generate(REQUEST) == expected[OLD]
    assert [line["event"] for line in logged].count(LogEvent.WEIGHTS_NOT_SEEN) == 1


class Here:
    """Stands for the deployed method: each call is answered by a text container in this process."""

    def __init__(self, worker: TextWorker) -> None:
        self.worker = worker
        self.asked: list[str | None] = []

    def spawn(self, spec: dict[str, Any], revision: str | None) -> "Here":
        self.asked.append(revision)
        self.answer = self.worker.encode(spec, revision)
        return self

    def get(self, timeout: float) -> dict[str, Any]:
        return self.answer


def text_here(settings: ModalSettings) -> RemoteText:
    worker = TextWorker(settings)
    worker.load()
    return RemoteText(lambda: Here(worker), max_sequence_length=TINY_RANDOM.max_sequence_length)  # type: ignore[return-value,arg-type]


def test_the_text_container_loads_the_encoder_that_a_render_asks_for(settings, models, expected):
    worker = TextWorker(settings)
    worker.load()
    before = worker.encode(spec_of().model_dump(mode="json"))
    after = worker.encode(spec_of().model_dump(mode="json"), NEW)
    assert before["encoder"] != after["encoder"] and before["text"] != after["text"]

    gone = worker.encode(spec_of().model_dump(mode="json"), GONE)
    assert gone["problem"]["code"] == "weights_missing" and GONE in gone["problem"]["detail"]
    assert worker.encode(spec_of().model_dump(mode="json"), OLD) == before
    truncated_text = models / "tiny-random" / NEW / "text_encoder/model.safetensors"
    truncated_text.write_bytes(b"")
    assert "problem" in worker.encode(spec_of().model_dump(mode="json"), NEW)
    assert worker.encode(spec_of().model_dump(mode="json")) == before, "the old encoder goes on"


def test_a_text_of_other_weights_is_never_drawn(settings, models, expected, monkeypatch):
    worker = TextWorker(settings)
    worker.load()
    text, spec = (
        RemoteText(lambda: here, max_sequence_length=TINY_RANDOM.max_sequence_length),  # type: ignore[return-value,arg-type]
        spec_of(),
    )
    here = Here(worker)
    from anime_studio.engine.text import encoder_revision

    text.revision, text.encoder = NEW, encoder_revision(models / "tiny-random" / NEW)
    early = Here(worker).spawn(
        spec.model_dump(mode="json"), None
    )  # started with the job, by the web container
    monkeypatch.setattr("modal.FunctionCall.from_id", lambda _id: early)
    text.call_id = "fc-early"
    taken = text.text_of(spec)

    assert here.asked == [NEW]
    assert taken.to_bytes() == worker.encode(spec.model_dump(mode="json"), NEW)["text"]
    text.encoder = "of nobody"
    with pytest.raises((UnavailableError, ReportedError)):
        text.text_of(spec)
