"""On a real GPU at full width: every fast path against the same weights in float32."""

import copy
import dataclasses

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

from anime_studio.core.decoders import Decoder
from anime_studio.core.recipes import FASTWAN_3STEP, WAN_50STEP
from anime_studio.engine.acceleration import PLAIN, Acceleration, Attention
from anime_studio.engine.decoder.choice import decoder_for
from anime_studio.engine.decoder.streaming import StreamingDecoder
from anime_studio.engine.denoiser.e4m3 import E4M3, to_e4m3
from anime_studio.engine.denoiser.fp8_linear import gelu_to_e4m3
from anime_studio.engine.denoiser.int8_attention import (
    KeyBlocks,
    Launch,
    attend_int8,
    int8_attention_works,
    launch_for,
)
from anime_studio.engine.denoiser.model import denoiser_for
from anime_studio.engine.loading.smaller_decoders import load_smaller_decoder
from anime_studio.engine.startup import options_for
from support.plain_attention import plain_attention, random_case
from support.smaller_decoders import light_vae, light_weights, tiny_weights, write

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


def in_bfloat16(model: WanTransformer3DModel) -> WanTransformer3DModel:
    half = copy.deepcopy(model).to(torch.bfloat16)
    half.rope = copy.deepcopy(model.rope)
    return half


def test_the_denoiser_with_every_option_of_this_card_stays_near_float32(transformer):
    options = options_for(WAN_50STEP, CUDA)
    exact = predict(transformer, PLAIN)
    plain = relative(predict(in_bfloat16(transformer), PLAIN), exact)

    without_fp8 = predict(in_bfloat16(transformer), dataclasses.replace(options, fp8_linears=False))

    assert relative(without_fp8, exact) < 1.5 * plain
    assert relative(predict(in_bfloat16(transformer), options), exact) < 0.06


def test_8_bit_attention_is_for_the_recipe_that_was_trained_with_it():
    if launch_for(torch.cuda.get_device_capability()) is None:
        pytest.skip("16 bits are faster on this GPU")

    assert int8_attention_works(CUDA)
    assert options_for(FASTWAN_3STEP, CUDA).attention is Attention.INT8
    assert options_for(WAN_50STEP, CUDA).attention is Attention.SDPA


@pytest.mark.parametrize(
    "shape",
    [{}, {"peak": 3.0, "key_offset": 3.0}, {"value_mean": 1.0}, {"peak": 20.0}],
    ids=["flat", "peaked, keys share an offset", "values share a mean", "logits of hundreds"],
)
@pytest.mark.parametrize("values", ["bfloat16", "e4m3"])
@torch.inference_mode()
def test_8_bit_attention_at_full_shape_stays_near_float64(shape, values):
    capability = torch.cuda.get_device_capability()
    if launch_for(capability) is None or (values == "e4m3" and capability < (8, 9)):
        pytest.skip("this GPU has no such product")
    launch = launch_for((8, 9) if values == "e4m3" else min(capability, (9, 0)))
    case = random_case(TOKENS, 12, 128, device="cuda", dtype=torch.bfloat16, **shape)
    rows = torch.arange(0, TOKENS, 509, device=CUDA)  # the last tile, which has padding, among them

    ours = attend_int8(*case.given, launch)[0]

    assert ours.isfinite().all()
    bound = 0.05 if values == "e4m3" else 0.04
    # int8's error in a logit of hundreds is near one, whatever follows.
    assert relative(ours[rows], plain_attention(case, rows)) < (0.1 if shape.get("peak", 0) > 3 else bound)


@torch.inference_mode()
def test_8_bit_attention_to_listed_blocks_sees_no_other_key():
    capability = torch.cuda.get_device_capability()
    if launch_for(capability) is None:
        pytest.skip("this GPU has no such product")
    launch = Launch(64, 64, 4, 3, copy_engine=capability == (9, 0))
    tiles = -(-TOKENS // 64)
    case = random_case(TOKENS, 12, 128, device="cuda", dtype=torch.bfloat16)
    blocks = torch.rand(12, tiles, tiles, device=CUDA).argsort(-1)[..., : tiles // 5].int()
    absent = ((blocks == tiles - 1) * (tiles * 64 - TOKENS)).sum(-1).int()
    rows = torch.arange(0, TOKENS, 509, device=CUDA)
    allowed = torch.zeros(12, len(rows), tiles, dtype=torch.bool, device=CUDA)
    allowed.scatter_(2, blocks[:, rows // 64].long(), True)

    ours = attend_int8(*case.given, launch, KeyBlocks(blocks, absent))[0]

    allowed = allowed.repeat_interleave(64, 2)[..., :TOKENS]
    assert relative(ours[rows], plain_attention(case, rows, allowed)) < 0.03


@pytest.fixture(scope="module")
def vae() -> AutoencoderKLWan:
    torch.manual_seed(3)
    with CUDA:
        return AutoencoderKLWan().eval().requires_grad_(False)


@pytest.mark.parametrize(
    "options",
    [
        PLAIN,
        Acceleration(fused_norms=True),
        Acceleration(fused_norms=True, decode_chunk=2),
    ],
)
@torch.inference_mode()
def test_the_decoder_gives_what_diffusers_gives_in_bfloat16(vae, options):
    config = vae.config
    shape = (1, config.z_dim, 1, 1, 1)
    mean = torch.tensor(config.latents_mean, device=CUDA).view(shape)
    std = 1.0 / torch.tensor(config.latents_std, device=CUDA).view(shape)
    half = copy.deepcopy(vae).to(torch.bfloat16)
    decoder = StreamingDecoder(half, options)
    for seed in (4, 5):  # the second clip begins with empty caches
        torch.manual_seed(seed)
        latents = torch.randn(1, 16, 4, 60, 104, device=CUDA)
        exact = vae.decode(latents / std + mean, return_dict=False)[0][0].permute(1, 0, 2, 3)
        theirs = half.decode(latents.bfloat16() / std.bfloat16() + mean.bfloat16(), return_dict=False)[0][0]

        ours = torch.cat([group.clone() for group in decoder.decode(latents)])

        assert ours.shape == exact.shape == (13, 3, 480, 832)
        assert relative(ours, exact) < 1.2 * relative(theirs.permute(1, 0, 2, 3), exact)


@pytest.mark.parametrize(("decoder", "bound"), [(Decoder.LIGHT, 0.03), (Decoder.TINY, 0.006)])
@torch.inference_mode()
def test_a_smaller_decoder_with_the_options_of_this_card_stays_near_float32(tmp_path, vae, decoder, bound):
    weights = tiny_weights() if decoder is Decoder.TINY else light_weights(light_vae())
    path = write(tmp_path / "decoder.safetensors", weights)
    on_cpu, on_gpu = (
        load_smaller_decoder(decoder, path, vae.config, device) for device in (torch.device("cpu"), CUDA)
    )
    plain, fast = decoder_for(on_cpu.to(CUDA)), decoder_for(on_gpu, options_for(WAN_50STEP, CUDA))
    torch.backends.cudnn.allow_tf32 = False
    for seed, latent_frames in (
        (8, 4),
        (9, 2),
    ):  # the second clip begins with nothing remembered, and is shorter
        torch.manual_seed(seed)
        latents = torch.randn(1, 16, latent_frames, 60, 104, device=CUDA)

        ours, exact = (torch.cat([group.clone() for group in walk.decode(latents)]) for walk in (fast, plain))

        assert ours.shape == exact.shape == (4 * latent_frames - 3, 3, 480, 832)
        assert relative(ours, exact) < bound


@torch.inference_mode()
def test_gelu_and_e4m3_in_one_kernel_are_what_torch_makes_of_them():
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("needs e4m3: sm_89 or later")
    torch.manual_seed(7)
    rows = (3 * torch.randn(TOKENS, 8960, device=CUDA)).bfloat16()

    ours, scale = gelu_to_e4m3(rows)

    theirs, expected_scale = to_e4m3(torch.nn.functional.gelu(rows.float(), approximate="tanh"))
    torch.testing.assert_close(scale, expected_scale, rtol=1e-4, atol=0)
    # A number half way between two e4m3 numbers may be rounded to either.
    assert float((ours.float() != theirs.float()).float().mean()) < 0.01
    assert relative(ours.float() * scale, theirs.float() * expected_scale) < 0.01


@torch.inference_mode()
def test_an_e4m3_linear_runs_on_this_card(transformer):
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("needs e4m3 tensor cores: sm_89 or later")
    model = in_bfloat16(transformer)
    predict(model, Acceleration(fused_denoiser=True, fp8_linears=True))

    assert model.blocks[0].to_qkv.weight.dtype is E4M3
