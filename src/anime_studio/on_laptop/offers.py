"""What a laptop's server offers and its worker warms up: the recipe, with 1080p where the checkpoint has an upscaler."""

from __future__ import annotations

from anime_studio.checkpoints.prepared import upscales
from anime_studio.core.recipes import Recipe, get_recipe
from anime_studio.settings import Settings


def offered(settings: Settings) -> Recipe:
    """Return the recipe with the sizes that these settings, or else the checkpoint on this machine, allow."""
    recipe, has_one = get_recipe(settings.recipe), settings.upscaler
    if has_one is None:
        has_one = upscales(recipe, settings.models_dir)
    return recipe.with_upscaler() if has_one else recipe
