"""On a real GPU: a checkpoint prepared on the CPU loads to the bits of its source."""

from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from transformers import UMT5Config, UMT5EncoderModel

from anime_studio.checkpoints.store import Checkpoint
from anime_studio.core.recipes import TINY_RANDOM
from anime_studio.engine.acceleration import packing_for
from anime_studio.engine.loading.components import Components, load_components
from anime_studio.engine.loading.prepare import prepare
from anime_studio.engine.loading.tiny_random import write_checkpoint

CUDA = torch.device("cuda", 0)
MODELS = ("text_encoder", "transformer", "vae")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture
def checkpoint(source: Path, tmp_path: Path) -> Checkpoint:
    return Checkpoint(source, "wide", tmp_path / TINY_RANDOM.name / "wide")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wan's widths, a few layers deep: tensors longer than one read, and many shorter ones in one."""
    torch.manual_seed(0)
    with CUDA:
        text = UMT5EncoderModel(
            UMT5Config(
                vocab_size=3000, d_model=4096, d_kv=64, d_ff=10240, num_layers=4, num_heads=64,
                feed_forward_proj="gated-gelu",
            )
        )  # fmt: skip
        transformer = WanTransformer3DModel(num_attention_heads=12, num_layers=2, ffn_dim=8960)
        vae = AutoencoderKLWan()
    folder = tmp_path_factory.mktemp("models") / TINY_RANDOM.name / "wide"
    return write_checkpoint(folder, *(model.to(torch.bfloat16) for model in (text, transformer, vae)))


def load(checkpoint: Checkpoint, *, prepared: bool) -> Components:
    components = load_components(checkpoint, CUDA)
    torch.cuda.synchronize()
    assert (components.folder != checkpoint.folder) == prepared
    return components


def load_both(checkpoint: Checkpoint) -> tuple[Components, Components]:
    """Load the source before it is prepared, and what was prepared from it."""
    source = load(checkpoint, prepared=False)
    prepare(checkpoint, packing_for("cuda"))
    return load(checkpoint, prepared=True), source


def assert_same_bits(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    mine = ours.state_dict() | dict(ours.named_buffers())
    other = theirs.state_dict() | dict(theirs.named_buffers())
    assert mine.keys() == other.keys()
    for name, tensor in mine.items():
        expected = other[name]
        assert (tensor.dtype, tensor.device) == (expected.dtype, expected.device), name
        assert torch.equal(
            tensor.contiguous().reshape(-1).view(torch.uint8),
            expected.contiguous().reshape(-1).view(torch.uint8),
        ), name


def test_every_tensor_has_the_bits_of_the_source(checkpoint):
    ours, theirs = load_both(checkpoint)

    for name in MODELS:
        assert_same_bits(getattr(ours, name), getattr(theirs, name))
    assert torch.equal(ours.text_encoder.shared.weight, theirs.text_encoder.shared.weight)


def test_a_prepared_load_leaves_no_holes_in_the_gpus_memory(checkpoint):
    prepare(checkpoint, packing_for("cuda"))
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved(), torch.cuda.memory_allocated()

    components = load(checkpoint, prepared=True)
    torch.cuda.empty_cache()

    reserved = torch.cuda.memory_reserved() - before[0]
    allocated = torch.cuda.memory_allocated() - before[1]
    assert components is not None, "its weights are allocated"
    assert reserved < 1.15 * allocated + 64 * 1024**2
