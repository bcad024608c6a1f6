"""`weights`: fetch a recipe's checkpoint onto this machine, and check every byte of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from anime_studio.cli.output import JsonOption, answering
from anime_studio.core.recipes import Recipe, get_recipe
from anime_studio.settings import Settings

RecipeOption = Annotated[
    str, typer.Option("--recipe", envvar="ANIME_STUDIO_RECIPE", help="Name of the recipe.", metavar="NAME")
]

commands = typer.Typer(name="weights", help="Fetch and check a recipe's checkpoint.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(commands)


@commands.command()
def fetch(recipe: RecipeOption, as_json: JsonOption = False) -> None:
    """Download the checkpoint, hash it, and make it visible in one step. Safe to interrupt and repeat."""
    from anime_studio import weights

    _answer(recipe, weights.fetch, "is here and whole", as_json=as_json)


@commands.command()
def verify(recipe: RecipeOption, as_json: JsonOption = False) -> None:
    """Hash every byte of the checkpoint; a wrong file is named."""
    from anime_studio import weights

    _answer(recipe, weights.verify, "is whole", as_json=as_json)


def _answer(name: str, act: Callable[[Recipe, Any], Any], verdict: str, *, as_json: bool) -> None:
    with answering(as_json=as_json) as output:
        recipe = get_recipe(name)
        checkpoint = act(recipe, Settings().models_dir)
        document = {"recipe": name, "revision": checkpoint.revision, "folder": str(checkpoint.folder)}
        output.result(document, f"{name} at {checkpoint.revision} {verdict}: {checkpoint.folder}")
