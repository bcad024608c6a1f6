"""`recipes`: the recipes with their numbers and sources."""

from __future__ import annotations

import dataclasses
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from anime_studio.cli.output import JsonOption, answering
from anime_studio.core.recipes import RECIPES, Recipe


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(recipes)


def recipes(as_json: JsonOption = False) -> None:
    """List the recipes; a server draws one of them (serve --recipe NAME)."""
    with answering(as_json=as_json) as output:
        if output.as_json:
            output.result([_document(recipe) for recipe in RECIPES.values()], "")
        else:
            _print_table()


def _print_table() -> None:
    console = Console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("recipe", "steps", "guidance", "clips", "model", "licence"):
        table.add_column(heading, overflow="fold")
    for recipe in RECIPES.values():
        guidance = "none" if recipe.guidance_scale is None else f"{recipe.guidance_scale:g}"
        shortest_s, longest_s = recipe.min_frames / recipe.fps, recipe.max_frames / recipe.fps
        clips = f"{longest_s:.2g} s" if shortest_s == longest_s else f"{shortest_s:.2g}–{longest_s:.2g} s"
        model = recipe.repo_id or "ships with the package"
        if recipe.name == "tiny-random":
            model = "random, for tests"
        table.add_row(recipe.name, str(recipe.num_inference_steps), guidance, clips, model, recipe.license)
    console.print(table)
    for recipe in RECIPES.values():
        console.print(f"\n[bold]{recipe.name}[/bold]: {recipe.summary}")
        console.print(f"  source: {recipe.source}", markup=False, highlight=False)


def _document(recipe: Recipe) -> dict[str, Any]:
    document = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
    document["native_sizes"] = {name.value: list(size) for name, size in recipe.native_sizes.items()}
    document["sparse"] = recipe.sparse and dataclasses.asdict(recipe.sparse)
    return document
