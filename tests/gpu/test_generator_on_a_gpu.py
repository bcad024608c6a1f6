"""The GPU container's checks on a real GPU: the driver, the known computation, the fingerprint, a bad restore."""

import shutil
from pathlib import Path

import pytest
import torch

from anime_studio.engine import probe
from anime_studio.generator import GeneratorWorker
from anime_studio.modal_settings import ModalSettings
from common.schemas import GenerateRequest, StartKind

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
REQUEST = GenerateRequest(prompt="a cat on a roof", duration=0.5, seed=7)


@pytest.fixture
def settings(tiny_checkpoint: Path, tmp_path: Path) -> ModalSettings:
    shutil.copytree(tiny_checkpoint, tmp_path / "tiny-random" / "random-0")
    return ModalSettings(recipe="tiny-random", gpu="L4", models_dir=tmp_path)


def test_the_driver_starts_and_the_known_product_is_exact_with_tf32_too():
    probe.wait_for_cuda()
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        for torch.backends.cuda.matmul.allow_tf32 in (False, True):
            probe.check_device(torch.device("cuda"))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize("mode", ["gpu", "cpu", "off"])
def test_a_worker_is_ready_in_each_mode_and_a_changed_weight_is_seen(
    monkeypatch: pytest.MonkeyPatch, settings: ModalSettings, mode: str
):
    worker = GeneratorWorker(settings.model_copy(update={"snapshot": mode}))
    worker.before_snapshot()
    worker.after_snapshot()
    assert worker.engine is not None and worker.engine.components.device.type == "cuda", worker.fault
    clip = worker.draw(REQUEST)
    assert clip[4:8] == b"ftyp"
    with torch.no_grad():
        next(worker.engine.components.transformer.parameters()).flatten()[0] += 1
    monkeypatch.setenv("MODAL_TASK_ID", "ta-restored")
    worker.after_snapshot()
    assert worker.engine is not None and worker.engine.start_kind is StartKind.RECOVERED
    assert worker.draw(REQUEST) == clip


def test_what_a_snapshot_saves_holds_nothing_that_only_drawing_needs(settings: ModalSettings):
    worker = GeneratorWorker(settings)
    worker.before_snapshot()
    held_bytes = torch.cuda.memory_reserved()
    torch.cuda.empty_cache()
    assert worker.engine is not None, worker.fault
    assert held_bytes - torch.cuda.memory_reserved() <= 4 * 1024**2  # the fingerprint's own
