"""Layers streamed from host memory compute what they computed before; `tests/gpu` runs the same on a GPU."""

import pytest
import torch
from transformers import UMT5Config, UMT5EncoderModel

from anime_studio.engine.acceleration import Acceleration, TextWeights
from anime_studio.engine.loading.components import place_text_encoder

CPU = torch.device("cpu")


def encoder() -> UMT5EncoderModel:
    torch.manual_seed(0)
    config = UMT5Config(vocab_size=99, d_model=64, d_kv=16, d_ff=128, num_layers=6, num_heads=4)
    return UMT5EncoderModel(config).eval().requires_grad_(False)


@torch.inference_mode()
def embed(model: UMT5EncoderModel, seed: int) -> torch.Tensor:
    tokens = torch.randint(1, 99, (1, 16), generator=torch.Generator().manual_seed(seed))
    return model(tokens, torch.ones_like(tokens)).last_hidden_state


@pytest.mark.parametrize("kind", [TextWeights.PLAIN, TextWeights.INT8])
def test_streamed_layers_embed_the_same_bits_prompt_after_prompt(kind):
    resident = place_text_encoder(encoder(), CPU, Acceleration(text_weights=kind))
    ours = place_text_encoder(encoder(), CPU, Acceleration(text_weights=kind, text_streamed=True))

    for seed in (1, 2, 1):
        assert torch.equal(embed(ours, seed), embed(resident, seed))


def test_streamed_layers_share_two_buffers():
    model = place_text_encoder(encoder(), CPU, Acceleration(text_streamed=True))

    storages = {parameter.untyped_storage().data_ptr() for parameter in model.encoder.block.parameters()}

    assert len(storages) == 2
