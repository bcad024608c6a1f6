"""On a real GPU: a checkpoint prepared on the CPU loads to the bits that packing on the GPU at each load gives."""

from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from transformers import UMT5Config, UMT5EncoderModel

from anime_studio.checkpoints.store import Checkpoint
from anime_studio.core.recipes import TINY_RANDOM
from anime_studio.engine.acceleration import PLAIN, Acceleration, TextWeights, packing_for
from anime_studio.engine.loading.components import Components, load_components
from anime_studio.engine.loading.prepare import prepare
from anime_studio.engine.loading.tiny_random import write_checkpoint

CUDA = torch.device("cuda", 0)
MODELS = ("text_encoder", "transformer", "vae")
INT8 = Acceleration(text_weights=TextWeights.INT8, text_embedding_on_cpu=True)

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


def load(checkpoint: Checkpoint, options: Acceleration, *, prepared: bool) -> Components:
    components = load_components(checkpoint, CUDA, options)
    torch.cuda.synchronize()
    assert (components.folder != checkpoint.folder) == prepared
    return components


def load_both(checkpoint: Checkpoint, options: Acceleration) -> tuple[Components, Components]:
    """Load the source before it is prepared, and what was prepared from it."""
    source = load(checkpoint, options, prepared=False)
    prepare(checkpoint, packing_for("cuda", options))
    return load(checkpoint, options, prepared=True), source


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


@pytest.mark.parametrize("options", [PLAIN, INT8])
def test_every_tensor_has_the_bits_of_packing_at_load(checkpoint, options):
    ours, theirs = load_both(checkpoint, options)

    for name in MODELS:
        assert_same_bits(getattr(ours, name), getattr(theirs, name))
    assert torch.equal(ours.text_encoder.shared.weight, theirs.text_encoder.shared.weight)


def test_streamed_layers_embed_the_same_bits_from_pinned_buffers(checkpoint):
    options = Acceleration(text_weights=TextWeights.INT8, text_embedding_on_cpu=True, text_streamed=True)
    tokens = torch.arange(1, 513, device=CUDA)[None]

    embedded = []
    for components in load_both(checkpoint, options):
        text = components.text_encoder
        with torch.inference_mode():
            embedded.append([text(tokens, torch.ones_like(tokens)).last_hidden_state for _ in range(3)])

    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*embedded, strict=True))


def test_a_prepared_load_leaves_no_holes_in_the_gpus_memory(checkpoint):
    prepare(checkpoint, packing_for("cuda", INT8))
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved(), torch.cuda.memory_allocated()

    components = load(checkpoint, INT8, prepared=True)
    torch.cuda.empty_cache()

    reserved = torch.cuda.memory_reserved() - before[0]
    allocated = torch.cuda.memory_allocated() - before[1]
    assert components is not None, "its weights are allocated"
    assert reserved < 1.15 * allocated + 64 * 1024**2
