"""Our denoiser predicts what diffusers' does, option by option."""

import copy
import dataclasses

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch._dynamo.testing import CompileCounterWithBackend

from anime_studio.core.errors import CheckpointError
from anime_studio.engine.acceleration import (
    PLAIN,
    Acceleration,
    Attention,
    options_for_capability,
)
from anime_studio.engine.denoiser.fp8_linear import Fp8Linear
from anime_studio.engine.denoiser.model import FusedDenoiser, denoiser_for

FUSED = Acceleration(fused_denoiser=True)


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


@pytest.fixture(scope="module")
def transformer() -> WanTransformer3DModel:
    torch.manual_seed(0)
    return WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, text_dim=24, freq_dim=32, ffn_dim=64, num_layers=3
    ).eval()


def inputs(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(1, 16, 3, 6, 8, generator=generator)
    return latents, torch.tensor(757), torch.randn(1, 7, 24, generator=generator)


def predict(transformer: WanTransformer3DModel, acceleration: Acceleration, seed: int = 1) -> torch.Tensor:
    latents, timestep, embeddings = inputs(seed)
    denoiser = denoiser_for(copy.deepcopy(transformer), acceleration)
    with torch.inference_mode():
        return denoiser(latents, timestep, denoiser.condition(embeddings))


def test_fused_equals_diffusers(transformer):
    ours = predict(transformer, FUSED)

    torch.testing.assert_close(ours, predict(transformer, PLAIN), rtol=0, atol=2e-5)


def test_the_plain_denoiser_takes_weights_in_bfloat16_as_a_gpu_loads_them(transformer, tmp_path):
    transformer.save_pretrained(tmp_path)
    half = WanTransformer3DModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert half.scale_shift_table.dtype is torch.float32, "diffusers keeps some weights in float32"

    assert relative(predict(half, PLAIN), predict(transformer, PLAIN)) < 0.05


def test_compiled_blocks_have_no_graph_break_and_equal_diffusers(transformer, monkeypatch):
    compiled = []
    original = torch.nn.Module.compile

    def trace_only(module, **options):
        compiled.append(options)
        original(module, backend="aot_eager", **options)

    monkeypatch.setattr(torch.nn.Module, "compile", trace_only)
    ours = predict(transformer, dataclasses.replace(FUSED, compile_blocks=True))

    assert compiled == [{"fullgraph": True}] * 3
    torch.testing.assert_close(ours, predict(transformer, PLAIN), rtol=0, atol=2e-5)


@torch.inference_mode()
def test_two_lengths_of_a_clip_compile_the_blocks_for_every_other(transformer, monkeypatch):
    counter = CompileCounterWithBackend("aot_eager")
    original = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda module, **how: original(module, backend=counter, **how)
    )
    torch._dynamo.reset()
    denoiser = denoiser_for(
        copy.deepcopy(transformer), dataclasses.replace(FUSED, compile_blocks=True, fp8_linears=True)
    )
    text = denoiser.condition(torch.randn(1, 7, 24))
    compiled = []
    for latent_frames in (9, 3, 4, 7, 9):
        denoiser(torch.randn(1, 16, latent_frames, 6, 8), torch.tensor(500), text)
        compiled.append(counter.frame_count)

    assert compiled[0] < compiled[1] == compiled[-1]


def test_e4m3_linears_stay_near_bfloat16(transformer):
    exact = predict(transformer, PLAIN)
    half = copy.deepcopy(transformer).to(torch.bfloat16)

    assert relative(predict(half, FUSED), exact) < 0.02
    assert relative(predict(half, dataclasses.replace(FUSED, fp8_linears=True)), exact) < 0.06


def test_blocks_replace_the_transformers_own(transformer):
    model = copy.deepcopy(transformer).to(torch.bfloat16)
    before = sum(tensor.nbytes for tensor in model.state_dict().values())
    FusedDenoiser(model, FUSED)
    assert sum(tensor.nbytes for tensor in model.state_dict().values()) == before

    model = copy.deepcopy(transformer).to(torch.bfloat16)
    FusedDenoiser(model, dataclasses.replace(FUSED, fp8_linears=True))
    assert sum(tensor.nbytes for tensor in model.state_dict().values()) < 0.75 * before


def test_text_is_conditioned_on_once_for_many_steps(transformer):
    latents, _, embeddings = inputs(2)
    denoiser = FusedDenoiser(copy.deepcopy(transformer), FUSED)
    text = denoiser.condition(embeddings)
    for timestep in (1000, 522):
        expected = predict_at(transformer, latents, timestep, embeddings)
        torch.testing.assert_close(
            denoiser(latents, torch.tensor(timestep), text), expected, rtol=0, atol=2e-5
        )


def predict_at(model: WanTransformer3DModel, latents, timestep: int, embeddings) -> torch.Tensor:
    with torch.inference_mode():
        return model(latents, torch.tensor([timestep]), embeddings, return_dict=False)[0]


def test_an_image_to_video_denoiser_is_refused():
    model = WanTransformer3DModel(
        num_attention_heads=1,
        attention_head_dim=12,
        text_dim=8,
        freq_dim=8,
        ffn_dim=16,
        num_layers=1,
        image_dim=8,
    )
    with pytest.raises(CheckpointError, match="image-to-video"):
        FusedDenoiser(model, FUSED)


def test_e4m3_linear_multiplies_as_a_linear():
    torch.manual_seed(3)
    linear = torch.nn.Linear(64, 48).to(torch.bfloat16)
    x = torch.randn(2, 5, 64).to(torch.bfloat16) * torch.logspace(-3, 3, 10).reshape(2, 5, 1)
    with torch.inference_mode():
        ours, theirs = Fp8Linear(linear.weight, linear.bias)(x.bfloat16()), linear(x.bfloat16())

    assert ours.shape == theirs.shape
    for row, expected in zip(ours.flatten(0, 1), theirs.flatten(0, 1), strict=True):
        assert (
            relative(row, expected) < 0.08
        )  # each token has its own scale, so large ones do not crush small ones


def test_options_follow_what_a_card_can_do():
    assert options_for_capability((7, 5)) == PLAIN
    a10, l4, h100 = (options_for_capability(capability) for capability in ((8, 6), (8, 9), (9, 0)))
    assert not a10.fp8_linears and l4.fp8_linears and h100.fp8_linears
    assert l4.attention is h100.attention is Attention.SDPA, "the recipe must allow 8 bits"


def test_widths_that_tensor_cores_do_not_take_stay_as_they_are(engine):
    tiny = copy.deepcopy(engine.components.transformer).to(torch.bfloat16)  # 24 wide
    FusedDenoiser(tiny, dataclasses.replace(FUSED, fp8_linears=True))

    assert not any(isinstance(module, Fp8Linear) for module in tiny.modules())
