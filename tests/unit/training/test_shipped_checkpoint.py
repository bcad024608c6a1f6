"""The checkpoint that ships draws what a prompt asks for, judged from its pixels; real files, real engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anime_studio.core.recipes import DEMO
from anime_studio.engine.engine import load_engine
from anime_studio.weights import PACKAGED, verify
from common.schemas import ClipSpec, Resolution

STEPS = 3
"""Fewer than the recipe's: enough for colours and places."""


@pytest.fixture(scope="module")
def draw():
    engine = load_engine(DEMO, PACKAGED / DEMO.name, device="cpu")

    def frames(prompt: str, seed: int = 1) -> np.ndarray:
        width, height = DEMO.native_sizes[Resolution.P480]
        spec = ClipSpec.model_construct(
            prompt_used=prompt, negative_prompt=DEMO.negative_prompt, seed=seed, num_frames=DEMO.max_frames,
            native_width=width, native_height=height, num_inference_steps=STEPS,
            guidance_scale=DEMO.guidance_scale,
        )  # fmt: skip
        latents = engine.denoise(spec, *engine.embed(spec), lambda *_: None)
        return np.concatenate(list(engine.frames(latents))).astype(int)

    return frames


def test_its_files_are_whole_and_small():
    checkpoint = verify(DEMO, Path("nowhere"))
    sizes = [path.stat().st_size for path in checkpoint.folder.rglob("*") if path.is_file()]
    assert sum(sizes) <= 40_000_000
    assert max(sizes) < 15 * 2**20


def test_sky_is_above_the_sea_and_sand_below_it(draw):
    clip = draw("an empty beach by the ocean on a sunny day, no people, clear sky")
    assert clip.shape == (DEMO.max_frames, 112, 192, 3)
    red, _, blue = clip[:, 60:75].mean((0, 1, 2))
    assert blue > red + 30  # the sea
    red, _, blue = clip[:, 95:].mean((0, 1, 2))
    assert red > blue + 30  # the sand


def test_hair_has_the_colour_asked_for(draw):
    clip = draw("close-up of a girl with long blue hair in a white dress, shrine at sunset")
    red, green, blue = clip[..., 0], clip[..., 1], clip[..., 2]
    assert ((blue > red + 40) & (blue > green + 20)).sum(axis=(1, 2)).mean() > 1500


def test_a_prompt_that_names_nothing_known_still_gives_a_moving_picture(draw):
    clip = draw("quantum pizza zxcvb")
    assert clip.std() > 20
    assert np.abs(np.diff(clip, axis=0)).mean() > 0.1
