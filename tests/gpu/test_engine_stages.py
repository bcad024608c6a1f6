"""On a real GPU at full width: every fast path against the same weights in float32."""

import copy
import dataclasses

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from transformers import UMT5Config, UMT5EncoderModel

from anime_studio.core.recipes import FASTWAN_3STEP, WAN_50STEP
from anime_studio.engine.acceleration import PLAIN, Acceleration, Attention, TextWeights
from anime_studio.engine.attention import attend, eight_bit_kernel
from anime_studio.engine.decoding import StreamingDecoder
from anime_studio.engine.denoiser import denoiser_for
from anime_studio.engine.linears import E4M3, gelu_to_e4m3, to_e4m3
from anime_studio.engine.loading import place_text_encoder
from anime_studio.engine.ready import levers_for

CUDA = torch.device("cuda", 0)
TOKENS = 32_760  # 480x832, 81 frames

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


@pytest.fixture(scope="module")
def transformer() -> WanTransformer3DModel:
    """Wan 2.1 1.3B's width, two layers deep, with gates that let the layers be seen."""
    torch.manual_seed(0)
    with CUDA:
        model = WanTransformer3DModel(num_attention_heads=12, num_layers=2, ffn_dim=8960)
    with torch.no_grad():
        for block in model.blocks:
            block.scale_shift_table.normal_(0, 0.3)
    return model.eval().requires_grad_(False)


@torch.inference_mode()
def predict(model: WanTransformer3DModel, acceleration: Acceleration, seed: int = 1) -> torch.Tensor:
    torch.manual_seed(seed)
    latents = torch.randn(1, 16, 21, 60, 104, device=CUDA)
    embeddings = torch.randn(1, 512, 4096, device=CUDA)
    denoiser = denoiser_for(model, acceleration)
    return denoiser(latents, torch.tensor(757, device=CUDA), denoiser.condition(embeddings))


def half(model: WanTransformer3DModel) -> WanTransformer3DModel:
    narrow = copy.deepcopy(model).to(torch.bfloat16)
    narrow.rope = copy.deepcopy(model.rope)
    return narrow


def test_the_denoiser_with_every_lever_of_this_card_stays_near_float32(transformer):
    levers = levers_for(WAN_50STEP, CUDA)
    exact = predict(transformer, PLAIN)
    plain = relative(predict(half(transformer), PLAIN), exact)

    without_fp8 = predict(half(transformer), dataclasses.replace(levers, fp8_linears=False))

    assert relative(without_fp8, exact) < 1.5 * plain
    assert relative(predict(half(transformer), levers), exact) < 0.06


def test_8_bit_attention_is_for_the_recipe_that_was_trained_with_it():
    kernel = eight_bit_kernel(CUDA)
    if kernel is None:
        pytest.skip("needs the `cuda` extra")

    assert levers_for(FASTWAN_3STEP, CUDA).attention is kernel
    assert levers_for(WAN_50STEP, CUDA).attention is Attention.SDPA


@pytest.mark.parametrize(
    ("kernel", "bound"),
    [(Attention.SDPA, 0.01), (Attention.FP8, 0.13), (Attention.INT8, 0.05)],
)
def test_each_attention_kernel_attends(kernel, bound):
    if kernel is Attention.FP8 and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("needs a Hopper GPU or later")
    if kernel in (Attention.FP8, Attention.INT8):
        pytest.importorskip("cudnn" if kernel is Attention.FP8 else "sageattention")
    torch.manual_seed(2)
    parts = [torch.randn(1, TOKENS, 12, 128, device=CUDA, dtype=torch.bfloat16) for _ in range(3)]
    parts[0] *= 3  # weights that prefer some tokens, as trained ones do

    with torch.inference_mode():
        ours = attend(*parts, kernel)

    assert relative(ours, attend(*(part.float() for part in parts))) < bound


@torch.inference_mode()
def test_streamed_text_layers_embed_the_same_bits():
    torch.manual_seed(6)
    config = UMT5Config(vocab_size=999, d_model=4096, d_kv=64, d_ff=10240, num_layers=6, num_heads=64)
    with CUDA:
        model = UMT5EncoderModel(config).bfloat16().eval().requires_grad_(False)
    levers = Acceleration(text_weights=TextWeights.INT8)
    resident = place_text_encoder(copy.deepcopy(model), CUDA, levers)
    streamed = place_text_encoder(model, CUDA, dataclasses.replace(levers, text_streamed=True))

    for _ in range(4):
        tokens = torch.randint(1, 999, (1, 512), device=CUDA)
        ours = streamed(tokens, torch.ones_like(tokens)).last_hidden_state
        assert torch.equal(ours, resident(tokens, torch.ones_like(tokens)).last_hidden_state)


@pytest.fixture(scope="module")
def vae() -> AutoencoderKLWan:
    torch.manual_seed(3)
    with CUDA:
        return AutoencoderKLWan().eval().requires_grad_(False)


@pytest.mark.parametrize(
    "levers",
    [
        PLAIN,
        Acceleration(fused_norms=True),
        Acceleration(fused_norms=True, decode_chunk=2),
    ],
)
@torch.inference_mode()
def test_the_decoder_draws_what_diffusers_draws_in_bfloat16(vae, levers):
    config = vae.config
    shape = (1, config.z_dim, 1, 1, 1)
    mean = torch.tensor(config.latents_mean, device=CUDA).view(shape)
    std = 1.0 / torch.tensor(config.latents_std, device=CUDA).view(shape)
    narrow = copy.deepcopy(vae).to(torch.bfloat16)
    decoder = StreamingDecoder(narrow, levers)
    for seed in (4, 5):  # the second clip begins with nothing remembered
        torch.manual_seed(seed)
        latents = torch.randn(1, 16, 4, 60, 104, device=CUDA)
        exact = vae.decode(latents / std + mean, return_dict=False)[0][0].permute(1, 0, 2, 3)
        theirs = narrow.decode(latents.bfloat16() / std.bfloat16() + mean.bfloat16(), return_dict=False)[0][0]

        ours = torch.cat([group.clone() for group in decoder.decode(latents)])

        assert ours.shape == exact.shape == (13, 3, 480, 832)
        assert relative(ours, exact) < 1.2 * relative(theirs.permute(1, 0, 2, 3), exact)


@torch.inference_mode()
def test_gelu_and_e4m3_in_one_kernel_are_what_torch_makes_of_them():
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("needs e4m3: sm_89 or later")
    torch.manual_seed(7)
    rows = (3 * torch.randn(TOKENS, 8960, device=CUDA)).bfloat16()

    narrow, scale = gelu_to_e4m3(rows)

    levels, steps = to_e4m3(torch.nn.functional.gelu(rows.float(), approximate="tanh"))
    torch.testing.assert_close(scale, steps, rtol=1e-4, atol=0)
    # A number on the edge between two levels may fall to either side.
    assert float((narrow.float() != levels.float()).float().mean()) < 0.01
    assert relative(narrow.float() * scale, levels.float() * steps) < 0.01


@torch.inference_mode()
def test_an_e4m3_linear_runs_on_this_card(transformer):
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("needs e4m3 tensor cores: sm_89 or later")
    model = half(transformer)
    predict(model, Acceleration(fused_denoiser=True, fp8_linears=True))

    assert model.blocks[0].to_qkv.weight.dtype is E4M3
