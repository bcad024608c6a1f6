"""1080p: what is cut off, what the record says of it, and who is refused."""

from pathlib import Path

import pytest

from anime_studio.checkpoints.store import find
from anime_studio.core.clip import plan
from anime_studio.core.crop import Crop
from anime_studio.core.errors import UnsupportedByRecipeError
from anime_studio.core.notes import CROPPED, notes_on
from anime_studio.core.recipes import DEMO, FASTWAN_3STEP, RECIPES, TINY_RANDOM, WAN_50STEP, Recipe
from common.schemas import ClipSpec, GenerateRequest, Resolution


def planned(recipe: Recipe, resolution: str) -> ClipSpec:
    request = GenerateRequest.model_validate({"prompt": "a cat", "resolution": resolution, "duration": 5.0})
    return plan(request, recipe, model_revision="r", seed=7)


@pytest.mark.parametrize(
    ("recipe", "resolution", "crop"),
    [
        (FASTWAN_3STEP, "1080p", Crop(top=6, bottom=6)),
        (WAN_50STEP, "1080p-portrait", Crop(left=6, right=6)),
        (DEMO, "1080p", Crop(top=2, bottom=2)),
        (TINY_RANDOM, "1080p", Crop(top=2, bottom=3)),
        (TINY_RANDOM, "1080p-portrait", Crop(left=2, right=3)),
        (DEMO, "480p", Crop()),
    ],
)
def test_rows_or_columns_go_evenly(recipe: Recipe, resolution: str, crop: Crop):
    assert Crop.of(planned(recipe.with_upscaler(), resolution)) == crop


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_what_is_left_has_the_clips_shape(recipe: Recipe):
    offered = recipe.with_upscaler()
    for resolution in offered.native_sizes:
        if resolution.native is resolution:
            continue
        spec = planned(offered, resolution)
        crop = Crop.of(spec)
        width = spec.native_width - crop.left - crop.right
        height = spec.native_height - crop.top - crop.bottom
        assert width * spec.height == height * spec.width, "no pixel is stretched"


def test_an_upscaler_adds_1080p_to_the_orientations_that_the_model_draws():
    assert list(DEMO.with_upscaler().native_sizes) == [Resolution.P480, Resolution.P1080]
    assert set(WAN_50STEP.with_upscaler().native_sizes) == set(Resolution)
    assert Resolution.P1080 not in WAN_50STEP.native_sizes


def test_the_record_says_what_was_cropped():
    recipe = FASTWAN_3STEP.with_upscaler()
    (note,) = (note for note in notes_on(planned(recipe, "1080p"), recipe) if note.code == CROPPED)
    assert "12 of 480 rows (6 at the top, 6 at the bottom)" in note.detail
    assert all(note.code != CROPPED for note in notes_on(planned(recipe, "480p"), recipe))


def test_without_an_upscaler_1080p_is_refused_with_what_is_offered():
    with pytest.raises(UnsupportedByRecipeError, match=r"1080p .* without an upscaler; it draws: 480p"):
        planned(DEMO, "1080p")


def test_an_upscaler_is_named_only_where_it_would_help():
    with pytest.raises(UnsupportedByRecipeError) as refused:
        planned(DEMO.with_upscaler(), "1080p-portrait")

    assert "recipe demo; it draws: 480p, 1080p" in str(refused.value)


def test_a_recipe_with_an_upscaler_has_the_same_checkpoint(tmp_path: Path):
    assert find(DEMO.with_upscaler(), tmp_path) == find(DEMO, tmp_path)
