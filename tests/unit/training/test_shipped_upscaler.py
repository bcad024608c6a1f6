"""The demo's upscaler, measured from the pixels of clips that the shipped engine draws."""

import itertools

import numpy as np
import pytest
import torch

from anime_studio.checkpoints.store import PACKAGED, Checkpoint
from anime_studio.core.clip import plan
from anime_studio.core.recipes import DEMO
from anime_studio.engine.startup import start_engine
from common.schemas import GenerateRequest
from training.blind_pairs import blinded, pair_of
from training.upscaler_evaluation import bicubic, flicker, sharpness, squares

FRAMES = 40


@pytest.fixture(scope="module")
def engine():
    return start_engine(DEMO, Checkpoint.at(PACKAGED / DEMO.name), device="cpu")


@pytest.mark.parametrize(
    "prompt",
    ["a girl with blue hair waving at the beach, sunset", "a black cat running in the snow at night"],
)
def test_a_clip_of_the_demo_is_sharp_and_steady(engine, prompt):
    spec = plan(GenerateRequest(prompt=prompt), DEMO, model_revision=DEMO.revision, seed=1)
    latents = engine.denoise(spec, *engine.embed(spec), lambda *_: None)
    small = first_frames(engine.decoder.decode(latents))
    large = first_frames(engine.upscaling.frames(engine.decoder.decode(latents)))
    interpolated = bicubic(small, engine.components.upscaler.config.scale)

    assert large.shape == interpolated.shape == (FRAMES, 3, 448, 768)
    # Over 32 prompts: sharpness 2.06 times, flicker 1.03 times, squares 1.74 (training/results/upscaler.json).
    assert sharpness(large) > 1.5 * sharpness(interpolated)
    assert flicker(large) < 1.1 * flicker(interpolated)
    assert squares(large, engine.components.upscaler.config.scale) < 2.5
    assert float((large - interpolated).abs().mean()) < 0.03, "it draws another picture"


@torch.inference_mode()
def first_frames(groups) -> torch.Tensor:
    """Return the first frames of a clip in [0, 1]: enough to see both."""
    frames = itertools.islice((frame for group in groups for frame in group), FRAMES)
    return torch.stack([(frame.float().clamp(-1, 1) + 1) / 2 for frame in frames])


def test_a_pair_for_people_shows_the_same_two_frames_blurred_and_sharp(engine):
    interpolated, upscaled = pair_of(engine, "a black cat running in the snow at night", 1)

    assert interpolated.size == upscaled.size == (768, 2 * 448)
    blurred, sharp = (to_tensor(picture) for picture in (interpolated, upscaled))
    assert sharpness(sharp) > 1.5 * sharpness(blurred)
    assert float((sharp - blurred).abs().mean()) < 0.03
    assert blinded((interpolated, upscaled), True)["B"] is upscaled
    assert blinded((interpolated, upscaled), False) == {"A": upscaled, "B": interpolated}


def to_tensor(picture) -> torch.Tensor:
    """Return (1, 3, height, width) in [0, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255
