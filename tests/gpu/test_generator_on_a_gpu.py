"""The GPU container's checks on a real GPU: the driver, the known computation, the fingerprint, a bad restore."""

import shutil
from pathlib import Path

import pytest
import torch

from anime_studio.engine import device_check
from anime_studio.on_modal.gpu_worker import GpuWorker
from anime_studio.on_modal.settings import ModalSettings
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
    device_check.wait_for_cuda()
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        for torch.backends.cuda.matmul.allow_tf32 in (False, True):
            device_check.check_device(torch.device("cuda"))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize("mode", ["gpu", "cpu", "off"])
def test_a_worker_is_ready_in_each_mode_and_a_changed_weight_is_seen(settings: ModalSettings, mode: str):
    task_ids = ["ta-first"]
    worker = GpuWorker(settings.model_copy(update={"snapshot": mode}), task_id=lambda: task_ids[-1])
    worker.before_snapshot()
    worker.after_snapshot()
    assert worker.engine is not None and worker.engine.components.device.type == "cuda", worker.error
    clip = worker.generate(REQUEST)
    assert clip[4:8] == b"ftyp"
    with torch.no_grad():
        next(worker.engine.components.transformer.parameters()).flatten()[0] += 1
    task_ids.append("ta-restored")
    worker.after_snapshot()
    assert worker.engine is not None and worker.start_kind is StartKind.RECOVERED
    assert worker.generate(REQUEST) == clip


def test_weights_are_in_host_memory_while_a_snapshot_is_taken(settings: ModalSettings):
    worker = GpuWorker(settings)
    worker.before_snapshot()
    assert worker.engine is not None, worker.error
    parts = worker.engine.components
    models = (parts.text_encoder, parts.transformer, parts.vae)
    weights = [tensor for model in models for tensor in model.parameters() if tensor.is_cuda]
    assert weights and not any(tensor.untyped_storage().nbytes() for tensor in weights)
    asleep_bytes = torch.cuda.memory_reserved()
    worker.after_snapshot()
    assert worker.start_kind is StartKind.COLD, "its weights are what they were"
    clip = worker.generate(REQUEST)
    worker.engine.sleep()
    assert torch.cuda.memory_reserved() <= asleep_bytes + 8 * 1024**2  # the prompt's embeddings
    assert worker.generate(REQUEST) == clip, "rendering wakes it up"
