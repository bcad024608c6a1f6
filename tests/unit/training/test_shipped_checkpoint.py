"""The checkpoint that ships shows what a prompt asks for, judged from its pixels; real files, real engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from anime_studio.checkpoints.store import locate
from anime_studio.core.clip import plan
from anime_studio.core.recipes import DEMO
from anime_studio.engine.sampling import sample as served_sample
from anime_studio.engine.startup import start_engine
from common.schemas import GenerateRequest
from training.config import STUDENT_STEPS
from training.sampling import sample

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def engine():
    return start_engine(DEMO, locate(DEMO, Path("nowhere")), device="cpu")


@pytest.fixture(scope="module")
def generate(engine):
    def frames(prompt: str, seed: int = 1) -> np.ndarray:
        spec = plan(GenerateRequest(prompt=prompt), DEMO, model_revision=DEMO.revision, seed=seed)
        latents = engine.denoise(spec, *engine.embed(spec), lambda *_: None)
        return np.concatenate(list(engine.frames(latents, larger=False))).astype(int)

    return frames


def test_its_files_are_whole_and_small():
    checkpoint = locate(DEMO, Path("nowhere"), hashes=True)
    sizes = [path.stat().st_size for path in checkpoint.folder.rglob("*") if path.is_file()]
    assert sum(sizes) <= 40_000_000
    assert max(sizes) < 15 * 2**20


def test_it_is_served_with_the_steps_it_was_distilled_for(engine):
    noise = torch.randn(1, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    def velocity(latents, timestep):
        return torch.sin(3 * latents) + timestep.view(-1, 1, 1, 1, 1) / 1000

    *_, served = served_sample(
        DEMO,
        DEMO.num_inference_steps,
        engine.components.scheduler_config,
        noise,
        lambda latents, timestep: velocity(latents, timestep.float()),
        torch.Generator(),
    )
    assert DEMO.num_inference_steps == STUDENT_STEPS
    assert torch.allclose(served, sample(velocity, noise, STUDENT_STEPS), atol=1e-5)


def test_scene_hair_and_falling_petals_are_those_asked_for(generate):
    clip = generate("a girl with pink twintails waving on a beach at sunset, cherry petals falling")
    assert clip.shape == (DEMO.max_frames, 112, 192, 3)
    red, green, blue = clip[..., 0], clip[..., 1], clip[..., 2]
    sand = clip[:, 98:, :40].mean((0, 1, 2))
    assert sand[0] > sand[2] + 60
    pink = (red > 200) & (green < 150) & (blue > 110) & (blue < red)
    assert pink[:, :90, 60:160].sum(axis=(1, 2)).mean() > 300  # a head of hair
    sky = clip[:, :40, :50]
    assert (np.abs(np.diff(sky, axis=0)).max(axis=-1) > 25).mean() > 0.004  # something small moves there
    still = generate("a girl with pink twintails waving on a beach at sunset, clear sky")[:, :40, :50]
    assert (np.abs(np.diff(sky, axis=0)).max(axis=-1) > 25).mean() > 2 * (
        np.abs(np.diff(still, axis=0)).max(axis=-1) > 25
    ).mean()


def test_sky_is_above_the_sea_and_sand_below_it(generate):
    clip = generate("an empty beach by the ocean on a sunny day, no people, clear sky")
    red, _, blue = clip[:, 60:75].mean((0, 1, 2))
    assert blue > red + 30  # the sea
    red, _, blue = clip[:, 95:].mean((0, 1, 2))
    assert red > blue + 30  # the sand


def test_hair_has_the_colour_asked_for(generate):
    clip = generate("close-up of a girl with long blue hair in a white dress, shrine at sunset")
    red, green, blue = clip[..., 0], clip[..., 1], clip[..., 2]
    assert ((blue > red + 40) & (blue > green + 20)).sum(axis=(1, 2)).mean() > 1500


def test_a_prompt_that_names_nothing_known_still_gives_a_moving_picture(generate):
    clip = generate("quantum pizza zxcvb")
    assert clip.std() > 20
    assert np.abs(np.diff(clip, axis=0)).mean() > 0.1
