"""On a real GPU at full size: the compiled upscaler in float16 against the same weights in float32, and its memory.

And what 1080p shows of a large frame, against a CPU.
"""

import copy

import pytest
import torch
from torch import nn

from anime_studio.core.clip import plan
from anime_studio.core.recipes import WAN_50STEP
from anime_studio.engine.fitting import fitted
from anime_studio.engine.startup import options_for
from anime_studio.engine.upscaling import BATCH, Upscaler, UpscalerConfig, UpscalingStage, enlarged
from common.schemas import GenerateRequest, Resolution

CUDA = torch.device("cuda", 0)
WIDTH, HEIGHT, SCALE = 832, 480, 4
ERROR = 0.004
"""Relative L2. float16 rounds by at most 2^-11, about 0.0005, in each of 18 layers; these add like a random walk."""

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(300),  # it compiles two shapes
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(scope="module")
def exact() -> Upscaler:
    """The shape of realesr-animevideov3, in float32, with weights under which signals keep their size."""
    torch.manual_seed(0)
    upscaler = Upscaler(UpscalerConfig(64, 16, SCALE)).to(CUDA).eval().requires_grad_(False)
    for layer in upscaler.body:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, a=0.25)
    return upscaler


def frames_of(count: int, width: int = WIDTH, height: int = HEIGHT) -> torch.Tensor:
    torch.manual_seed(count)
    return (torch.rand(count, 3, height, width, device=CUDA) * 2 - 1).bfloat16()


@torch.inference_mode()
def test_compiled_in_float16_it_stays_near_float32_at_both_sizes(exact: Upscaler) -> None:
    torch.backends.cudnn.allow_tf32 = False
    stage = UpscalingStage(copy.deepcopy(exact).half(), options_for(WAN_50STEP, CUDA))
    # The last batch has two frames and is filled up; on a GPU older than Ampere this is the plain path.
    for width, height in ((WIDTH, HEIGHT), (HEIGHT, WIDTH)):
        small = frames_of(BATCH + 2, width, height)

        batches = list(stage.frames([small[:1], small[1:9], small[9:]]))

        assert [len(batch) for batch in batches] == [BATCH, 2]
        ours = torch.cat(batches)
        assert ours.shape == (BATCH + 2, 3, SCALE * height, SCALE * width)
        for frame, given in zip(ours, small, strict=True):
            theirs = enlarged(exact, given[None].float())[0]
            # The small frame that is added is exact on both sides: only what the network adds may be weighed.
            added = theirs - given.float().repeat_interleave(SCALE, 1).repeat_interleave(SCALE, 2)
            assert float((frame.float() - theirs).norm() / added.norm()) < ERROR
    assert stage.seconds > 0


@torch.inference_mode()
def test_a_clip_takes_less_memory_than_the_weights_of_a_denoiser(exact: Upscaler) -> None:
    stage = UpscalingStage(copy.deepcopy(exact).half(), options_for(WAN_50STEP, CUDA))
    clip = frames_of(81)
    list(stage.frames([clip[:1]]))  # compiles
    torch.cuda.empty_cache()
    before_bytes = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()

    for _ in stage.frames([clip[:1], *torch.split(clip[1:], 8)]):
        pass

    assert torch.cuda.max_memory_allocated() - before_bytes < 2.6e9  # Wan 2.1 1.3B's are 2.8 GB in bfloat16


@pytest.mark.parametrize("resolution", [Resolution.P1080, Resolution.P1080_PORTRAIT])
@torch.inference_mode()
def test_a_large_frame_is_cropped_and_reduced_as_on_a_cpu(resolution: Resolution) -> None:
    request = GenerateRequest(prompt="a cat", resolution=resolution)
    spec = plan(request, WAN_50STEP.with_upscaler(), model_revision="random", seed=0)
    large = torch.rand(2, 3, SCALE * spec.native_height, SCALE * spec.native_width).half() * 2 - 1

    (here,) = fitted([large.to(CUDA)], spec)
    (there,) = fitted([large], spec)

    assert here.shape == (2, 3, spec.height, spec.width)
    assert float((here.cpu() - there).abs().max()) < 1e-3  # an eighth of a level of 8 bits; 1.3e-4 was seen
