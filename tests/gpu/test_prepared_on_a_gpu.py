"""On a real GPU: a form prepared on the CPU loads to the bits that packing on the GPU at each load gives."""

from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from transformers import UMT5Config, UMT5EncoderModel

from anime_studio.core.recipes import TINY_RANDOM
from anime_studio.engine.acceleration import PLAIN, Acceleration, TextWeights, packing_for
from anime_studio.engine.loading import Components, load_components
from anime_studio.engine.preparing import prepare
from anime_studio.engine.tiny import write_checkpoint
from anime_studio.prepared import Forms

CUDA = torch.device("cuda", 0)
PARTS = ("text_encoder", "transformer", "vae")
INT8 = Acceleration(text_weights=TextWeights.INT8, text_embedding_on_cpu=True)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> Forms:
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
    models = tmp_path_factory.mktemp("models")
    source = models / TINY_RANDOM.name / "wide"
    write_checkpoint(source, *(model.to(torch.bfloat16) for model in (text, transformer, vae)))
    return Forms.of(TINY_RANDOM, source, models)


def load(folder: Path, levers: Acceleration) -> Components:
    components = load_components(folder, CUDA, levers)
    torch.cuda.synchronize()
    return components


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


@pytest.mark.parametrize("levers", [PLAIN, INT8])
def test_every_tensor_has_the_bits_of_packing_at_load(forms, levers):
    ours = load(prepare(forms, packing_for("cuda", levers)), levers)
    theirs = load(forms.source, levers)

    for part in PARTS:
        assert_same_bits(getattr(ours, part), getattr(theirs, part))
    assert torch.equal(ours.text_encoder.shared.weight, theirs.text_encoder.shared.weight)


def test_waiting_layers_embed_the_same_bits_from_locked_homes(forms):
    levers = Acceleration(text_weights=TextWeights.INT8, text_embedding_on_cpu=True, text_streamed=True)
    tokens = torch.arange(1, 513, device=CUDA)[None]

    embedded = []
    for folder in (prepare(forms, packing_for("cuda", levers)), forms.source):
        text = load(folder, levers).text_encoder
        with torch.inference_mode():
            embedded.append([text(tokens, torch.ones_like(tokens)).last_hidden_state for _ in range(3)])

    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*embedded, strict=True))


def test_a_prepared_load_leaves_no_holes_in_the_gpus_memory(forms):
    folder = prepare(forms, packing_for("cuda", INT8))
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved(), torch.cuda.memory_allocated()

    kept = load(folder, INT8)
    torch.cuda.empty_cache()

    reserved, allocated = (
        torch.cuda.memory_reserved() - before[0],
        torch.cuda.memory_allocated() - before[1],
    )
    assert kept is not None
    assert reserved < 1.15 * allocated + 64 * 1024**2
