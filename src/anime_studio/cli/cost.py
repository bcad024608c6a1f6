"""`cost`: what a clip should cost on each card. Every figure is a projection, and says so."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from anime_studio.cli.output import JsonOption, answering
from anime_studio.core.pricing import MODAL_RATES, Machine
from anime_studio.core.projection import CARDS, Projection, project
from anime_studio.core.recipes import RECIPES

PRICED = tuple(recipe for recipe in RECIPES.values() if recipe.repo_id is not None)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(cost)


def cost(
    cpu_cores: Annotated[float, typer.Option(min=0.1, help="CPU cores of the container.")] = 2,
    memory_gib: Annotated[float, typer.Option(min=0.1, help="Memory of the container.")] = 12,
    scaledown_window_s: Annotated[float, typer.Option(min=0, help="Idle seconds after a lone clip.")] = 10,
    cold_start_s: Annotated[float, typer.Option(min=0, help="Seconds of a cold start.")] = 2,
    as_json: JsonOption = False,
) -> None:
    """Project dollars per clip for each card and recipe, all-in: GPU, CPU and memory; idle and start apart."""
    with answering(as_json=as_json) as output:
        projections = [
            project(
                recipe,
                Machine(card, cpu_cores, memory_gib),
                scaledown_window_s=scaledown_window_s,
                cold_start_s=cold_start_s,
            )
            for recipe in PRICED
            for card in CARDS
        ]
        if output.as_json:
            documents = [{**dataclasses.asdict(each), "total_s": each.total_s} for each in projections]
            output.result({"basis": _basis(), "projections": documents}, "")
        else:
            _tell(projections)


def _tell(projections: list[Projection]) -> None:
    console = Console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("recipe", no_wrap=True)
    table.add_column("card", no_wrap=True)
    for heading in ("denoise", "decode", "clip", "$ per clip", "+ idle tail", "+ cold start"):
        table.add_column(heading, justify="right")
    for each in projections:
        cheapest = min(other.usd for other in projections if other.recipe == each.recipe) == each.usd
        table.add_row(
            each.recipe,
            each.card,
            f"{each.denoise_s:.1f} s",
            f"{each.decode_s:.1f} s",
            f"{each.total_s:.1f} s",
            f"{each.usd:.4f}{' *' if cheapest else ''}",
            f"{each.idle_tail_usd:.4f}",
            f"{each.cold_start_usd:.4f}",
        )
    console.print(table)
    console.print(f"\n* cheapest per clip. {_basis()}", highlight=False)


def _basis() -> str:
    return (
        f"Projected, not measured: what our engine sustained on one H200, carried to other cards by their data sheets; "
        f"rates of {MODAL_RATES.as_of:%Y-%m-%d}."
    )
