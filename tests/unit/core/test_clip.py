"""A request becomes exactly one clip, or is refused; nothing is rounded in silence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anime_studio.core.clip import FRAMES_PER_LATENT, frames_for, plan
from anime_studio.core.errors import InvalidRequestError, UnsupportedByRecipeError
from anime_studio.core.recipes import DEMO, FASTWAN_3STEP, RECIPES, TINY_RANDOM, WAN_50STEP, Recipe
from common.schemas import ClipSpec, GenerateRequest


def planned(recipe: Recipe, **request) -> ClipSpec:
    return plan(GenerateRequest(**{"prompt": "a cat"} | request), recipe, model_revision="r", seed=11)


@pytest.mark.parametrize(
    ("duration_s", "num_frames"),
    [
        (5, 81),
        (5.0, 81),
        (5.0625, 81),
        (5.07, 85),
        (1, 17),
        (0.0625, 1),
        (0.0626, 5),
        (0.25, 5),
        (3, 49),
        (60, 961),
    ],
)
def test_the_frame_count_is_4n_plus_1_and_covers_the_duration(duration_s, num_frames):
    assert frames_for(duration_s) == num_frames


def test_a_float_a_hair_above_a_frame_asks_for_no_more_frames():
    assert 4.36 * 25 > 109
    assert frames_for(4.36, fps=25) == 109


@given(st.floats(0.001, 60, allow_nan=False), st.sampled_from([8, 12, 16, 24]))
def test_the_smallest_legal_count_that_covers(duration_s, fps):
    num_frames = frames_for(duration_s, fps=fps)

    assert num_frames % FRAMES_PER_LATENT == 1
    assert num_frames / fps >= duration_s - 1e-6
    assert num_frames == 1 or (num_frames - FRAMES_PER_LATENT) / fps < duration_s + 1e-6


@pytest.mark.parametrize("duration_s", [0, -1, float("nan")])
def test_no_time_is_no_clip(duration_s):
    with pytest.raises(InvalidRequestError):
        frames_for(duration_s)


def test_the_default_request_under_the_gpu_recipe():
    spec = planned(FASTWAN_3STEP)

    assert (spec.width, spec.height, spec.num_frames, spec.fps) == (832, 480, 81, 16)
    assert (spec.num_inference_steps, spec.guidance_scale, spec.negative_prompt) == (3, None, None)
    assert spec.seed == 11


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_every_recipe_draws_what_it_offers(recipe):
    for resolution, native in recipe.native_sizes.items():
        spec = planned(recipe, resolution=resolution, duration=recipe.max_frames / recipe.fps)

        assert (spec.native_width, spec.native_height) == native
        assert (spec.width, spec.height) == resolution.size
        assert spec.num_frames == recipe.max_frames


def test_seed_zero_is_a_seed():
    assert planned(DEMO, seed=0).seed == 0


@pytest.mark.parametrize(
    ("recipe", "request_", "detail"),
    [
        (FASTWAN_3STEP, {"duration": 3}, "81 to 81"),
        (FASTWAN_3STEP, {"num_inference_steps": 4}, "exactly 3"),
        (FASTWAN_3STEP, {"guidance_scale": 5}, "without guidance"),
        (FASTWAN_3STEP, {"negative_prompt": "text"}, "leave it out"),
        (FASTWAN_3STEP, {"resolution": "480p-portrait"}, "480p"),
        (WAN_50STEP, {"num_inference_steps": 9}, "10 to 100"),
        (WAN_50STEP, {"duration": 5.1}, "at most 5.0625 s"),
        (DEMO, {"duration": 0.5}, "more than 4.8125 s"),
        (DEMO, {"guidance_scale": 3}, "without guidance"),
        (DEMO, {"num_inference_steps": 9}, "4 to 8"),
        (WAN_50STEP, {"negative_prompt": "text", "guidance_scale": 1}, "leave it out"),
    ],
)
def test_what_a_recipe_cannot_do_is_refused_with_what_it_can(recipe, request_, detail):
    with pytest.raises(UnsupportedByRecipeError, match=detail):
        planned(recipe, **request_)


def test_the_bounds_that_a_refusal_names_are_true():
    shortest = (DEMO.min_frames - FRAMES_PER_LATENT) / DEMO.fps
    with pytest.raises(UnsupportedByRecipeError):
        planned(DEMO, duration=shortest)

    assert planned(DEMO, duration=shortest + 0.001).num_frames == DEMO.min_frames
    assert planned(DEMO, duration=DEMO.max_frames / DEMO.fps).num_frames == DEMO.max_frames


def test_guidance_of_one_is_none():
    assert planned(WAN_50STEP, guidance_scale=1).guidance_scale is None
    assert planned(WAN_50STEP).guidance_scale == 6.0
    assert planned(FASTWAN_3STEP, guidance_scale=1).guidance_scale is None


def test_the_negative_prompt_is_the_recipes_unless_given_even_empty():
    assert planned(WAN_50STEP).negative_prompt == WAN_50STEP.negative_prompt
    assert planned(WAN_50STEP, negative_prompt="").negative_prompt == ""
    assert planned(WAN_50STEP, negative_prompt="rain").negative_prompt == "rain"


def test_the_record_shows_both_prompts():
    spec = planned(FASTWAN_3STEP)
    assert spec.prompt == "a cat"
    assert spec.prompt_used.startswith("a cat. Anime style")

    off = plan(
        GenerateRequest(prompt="a cat"), FASTWAN_3STEP, model_revision="r", seed=1, compose_prompt=False
    )
    assert off.prompt_used == "a cat"
    assert planned(DEMO).prompt_used == "a cat"


def test_tiny_random_takes_the_shortest_clip():
    assert planned(TINY_RANDOM, duration=0.3).num_frames == 5
