"""Every recipe is consistent with itself, with the model and with its source."""

import pytest

from anime_studio.core.errors import ConfigurationError
from anime_studio.core.recipes import RECIPES, Recipe, Sampler, get_recipe
from common.schemas import GenerateRequest, Resolution

recipes = pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)


@recipes
def test_a_recipe_is_found_by_its_name(recipe: Recipe):
    assert get_recipe(recipe.name) is recipe
    assert recipe.source
    assert recipe.license == "Apache-2.0"


@recipes
def test_frame_counts_are_4n_plus_1(recipe: Recipe):
    assert recipe.min_frames % 4 == recipe.max_frames % 4 == 1
    assert recipe.min_frames <= recipe.max_frames


@recipes
def test_sizes_fit_the_models_patches(recipe: Recipe):
    # Wan: VAE stride 8, patch 2
    assert all(side % 16 == 0 for size in recipe.native_sizes.values() for side in size)
    for resolution, (width, height) in recipe.native_sizes.items():
        asked = resolution.size
        assert (width > height) == (asked[0] > asked[1])


@recipes
def test_steps_and_guidance_agree(recipe: Recipe):
    assert recipe.min_inference_steps <= recipe.num_inference_steps <= recipe.max_inference_steps
    assert recipe.accepts_guidance or recipe.guidance_scale is None
    assert recipe.accepts_guidance or recipe.negative_prompt is None


@recipes
def test_a_few_step_student_is_bound_to_its_timesteps(recipe: Recipe):
    assert (recipe.sampler is Sampler.DMD) == bool(recipe.timesteps)
    if recipe.timesteps:
        assert recipe.min_inference_steps == recipe.max_inference_steps == len(recipe.timesteps)
        assert list(recipe.timesteps) == sorted(recipe.timesteps, reverse=True)


@recipes
def test_the_default_request_can_be_drawn(recipe: Recipe):
    request = GenerateRequest(prompt="x")
    assert request.resolution is Resolution.P480
    assert request.resolution in recipe.native_sizes


def test_an_unknown_recipe_is_refused_with_those_there_are():
    with pytest.raises(ConfigurationError, match="fastwan-3step"):
        get_recipe("fastwan")
