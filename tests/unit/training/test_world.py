"""The world: it renders what a scene describes, captions name what it renders, and evaluation is apart from training."""

from __future__ import annotations

import random
import shutil

import numpy as np
import pytest
import torch

from training.clips import scenes_and_parameters
from training.world.captions import write_caption
from training.world.held_out import write_held_out_prompts
from training.world.render import CHANNELS, render
from training.world.scene import ATTRIBUTES, PARAMETERS, parameters_of, sample_scene

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="the renderer is compiled with g++")

HEIGHT, WIDTH = 56, 96


def render_scene(scene, *, seed=0, frames=2, **changes):
    parameters = parameters_of(scene, random.Random(seed))
    for name, value in changes.items():
        parameters[PARAMETERS.index(name)] = value
    return render(torch.from_numpy(parameters)[None], frames, HEIGHT, WIDTH)[0]


def scene_like(**wanted):
    rng = random.Random(1)
    while True:
        scene = sample_scene(rng, held_out=None)
        if all(getattr(scene, name) == value for name, value in wanted.items()):
            return scene


def test_renders_four_channels_and_the_same_again():
    scene = scene_like(character="girl")
    first, second = render_scene(scene), render_scene(scene)
    assert first.shape == (CHANNELS, 2, HEIGHT, WIDTH)
    assert first.dtype is torch.uint8
    assert torch.equal(first, second)


def test_night_is_darker_than_day():
    day = render_scene(scene_like(time_of_day="day", weather="clear", character="nobody"))
    night = render_scene(scene_like(time_of_day="night", weather="clear", character="nobody"))
    assert day[:3].float().mean() > 2 * night[:3].float().mean()


def test_focus_marks_head_and_body_and_nothing_else():
    assert int(render_scene(scene_like(character="nobody"))[3].max()) == 0
    levels = render_scene(scene_like(character="girl", close_up=False, action="stand"))[3]
    assert int(levels.max()) == 255
    assert ((levels > 90) & (levels < 115)).any()
    assert (levels == 0).float().mean() > 0.4


def test_hair_and_clothes_take_their_own_colours():
    scene = scene_like(
        character="girl",
        time_of_day="day",
        hair_colour="blue",
        clothes_colour="red",
        weather="clear",
        close_up=True,
    )
    picture = render_scene(scene, frames=1)
    figure = picture[3, 0] > 0
    red, green, blue = (picture[i, 0].float() for i in range(3))
    assert (figure & (blue > red + 60)).sum() > 50
    assert (figure & (red > blue + 60) & (red > green + 60)).sum() > 50


def test_figures_move_on_twos_and_rain_does_not():
    scene = scene_like(character="girl", action="run", weather="rain", close_up=False)
    frames = render_scene(scene, frames=5, WIND=0)
    focus = frames[3].int()
    assert torch.equal(focus[1], focus[2])
    assert torch.equal(focus[3], focus[4])
    assert not torch.equal(focus[0], focus[1])
    assert not torch.equal(frames[:3, 1], frames[:3, 2])


def test_a_missing_eye_changes_only_the_head():
    scene = scene_like(character="girl", close_up=True, expression="smile", weather="clear", action="stand")
    whole = render_scene(scene, frames=1, BLINK_START=1.0)
    faulty = render_scene(scene, frames=1, BLINK_START=1.0, FACE_FAULT=1)
    changed = (whole[:3] != faulty[:3]).any(0)
    assert changed.any()
    assert (whole[3][changed] > 200).all()


def test_training_and_evaluation_share_no_combination():
    rng = random.Random(2)
    assert not any(sample_scene(rng, held_out=False).is_held_out for _ in range(300))
    assert all(scene.is_held_out for scene, _ in write_held_out_prompts(100, seed=3))


def test_captions_name_what_the_scene_shows():
    rng = random.Random(4)
    for _ in range(300):
        scene = sample_scene(rng)
        caption = write_caption(scene, rng)
        for name in caption.named:
            assert scene.value_of(name) is not None, (name, caption.text)
        if "fur_colour" in caption.named:
            assert scene.character == "cat"


def test_some_captions_name_nothing_and_some_are_tags():
    rng = random.Random(5)
    captions = [write_caption(sample_scene(rng), rng) for _ in range(400)]
    assert any(not caption.named for caption in captions)
    assert any(caption.text.count(",") >= 6 for caption in captions)
    assert any("cel shading" in caption.text for caption in captions)


def test_held_out_prompts_use_sentences_of_their_own_and_repeat_with_a_seed():
    prompts = write_held_out_prompts(50, seed=6)
    assert [caption.text for _, caption in prompts] == [
        caption.text for _, caption in write_held_out_prompts(50, seed=6)
    ]
    rng = random.Random(7)
    trained = {write_caption(sample_scene(rng), rng).text for _ in range(2000)}
    assert not trained & {caption.text for _, caption in prompts}


def test_labels_index_the_attributes():
    scenes, parameters = scenes_and_parameters(50, random.Random(8))
    assert parameters.shape == (50, len(PARAMETERS))
    assert np.isfinite(parameters.numpy()).all()
    for scene in scenes:
        for label, (name, values) in zip(scene.labels(), ATTRIBUTES.items(), strict=True):
            value = scene.value_of(name)
            assert (label == -1) == (value is None)
            assert value is None or values[label] == value
