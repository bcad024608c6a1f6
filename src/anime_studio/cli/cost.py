"""`cost`: what a clip should cost on each card. Every figure is a projection and is labelled so."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from itertools import groupby
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from anime_studio.cli.output import JsonOption, answering
from anime_studio.core.pricing import MODAL_RATES
from anime_studio.core.projection import CARDS, Projection, project
from anime_studio.core.recipes import RECIPES, get_recipe
from anime_studio.core.show_cost import PLAIN_START_S, RESTORE_S, Deployment
from anime_studio.on_modal.settings import ModalSettings
from common.schemas import Resolution

PRICED = tuple(
    recipe for recipe in RECIPES.values() if recipe.repo_id is not None and recipe.checkpoint_of is None
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(cost)


def cost(
    clips_per_hour: Annotated[
        float, typer.Option(min=0.1, help="Clips that a show asks for in an hour.")
    ] = 30,
    hours: Annotated[float, typer.Option(min=0.1, help="Hours of a show.")] = 3,
    shows: Annotated[float, typer.Option(min=0, help="Shows in a month.")] = 4,
    as_json: JsonOption = False,
) -> None:
    """Project dollars: a clip for each recipe, decoder and card, then what this shell's settings would deploy.

    The settings are those of `anime-studio deploy`: ANIME_STUDIO_GPU, _RECIPE, _DECODER, _SCALEDOWN_WINDOW_S, …
    """
    with answering(as_json=as_json) as output:
        settings = ModalSettings.read()
        small, large = (_projections(settings, size) for size in (Resolution.P480, Resolution.P1080))
        deployment = _deployment(settings)
        sums = {} if deployment is None else _sums(deployment, clips_per_hour, hours, shows)
        if deployment is not None and settings.upscaler:
            larger = _deployment(settings, Resolution.P1080)
            sums |= {} if larger is None else {"a clip of 1080p while others wait": larger.burst_usd}
        if output.as_json:
            projections = {"projections": _documents(small), "projections_1080p": _documents(large)}
            output.result({"basis": _basis(), **projections, "deployment": sums}, "")
            return
        _show(small)
        _show_1080p(small, large)
        if deployment is not None:
            _show_sums(settings, sums)


def _projections(settings: ModalSettings, resolution: Resolution) -> list[Projection]:
    return [
        project(
            recipe,
            replace(settings.machine, gpu=card),
            decoder=decoder,
            resolution=resolution,
            scaledown_window_s=settings.scaledown_window_s,
            cold_start_s=RESTORE_S,
        )
        for recipe in PRICED
        for decoder in recipe.decoders
        for card in CARDS
    ]


def _documents(projections: list[Projection]) -> list[dict[str, object]]:
    return [dataclasses.asdict(each) | {"clips_per_hour": each.clips_per_hour} for each in projections]


def _deployment(settings: ModalSettings, resolution: Resolution = Resolution.P480) -> Deployment | None:
    recipe = get_recipe(settings.recipe)
    if settings.machine.gpu_type not in CARDS or recipe.repo_id is None:
        return None
    projection = project(recipe, settings.machine, decoder=settings.decoder, resolution=resolution)
    return Deployment(
        clip_s=projection.total_s,
        gpu_usd_per_s=settings.machine.usd_per_s(),
        text_usd_per_s=settings.text_machine.usd_per_s() if settings.text == "cpu" else 0.0,
        scaledown_window_s=settings.scaledown_window_s,
        start_s=RESTORE_S if settings.snapshot == "gpu" else PLAIN_START_S,
        always_on=settings.min_containers > 0,
    )


def _sums(deployment: Deployment, clips_per_hour: float, hours: float, shows: float) -> dict[str, float]:
    """Return dollars by what they are for."""
    show_usd = hours * deployment.hour_usd(clips_per_hour)
    return {
        "a clip while others wait": deployment.burst_usd,
        "a clip alone, from sleep to sleep": deployment.lone_clip_usd(),
        "the same after a start without a snapshot": deployment.lone_clip_usd(PLAIN_START_S),
        f"a show of {hours:g} h with {clips_per_hour:g} clips an hour": show_usd,
        f"a month of {shows:g} such shows": shows * show_usd,
    }


def _show_sums(settings: ModalSettings, sums: dict[str, float]) -> None:
    console = Console()
    text = "the text encoder in a container of its own" if settings.text == "cpu" else "text on the GPU"
    console.print(
        f"\nThese settings: {settings.recipe}, decoder {settings.decoder}, {settings.gpu}, {text}, snapshot "
        f"{settings.snapshot}, idle for {settings.scaledown_window_s} s, {settings.min_containers} kept",
        highlight=False,
    )
    for what, usd in sums.items():
        console.print(f"  ${usd:.4f}  {what}" if usd < 1 else f"  ${usd:.2f}    {what}", highlight=False)


def _show(projections: list[Projection]) -> None:
    """Print a table for each recipe and decoder: in one for all, a line of 80 characters has no room for the dollars."""
    console = Console()
    for (recipe, decoder), rows in groupby(projections, key=lambda each: (each.recipe, each.decoder)):
        of_recipe = [each.usd for each in projections if each.recipe == recipe]
        console.print(f"\n{recipe}, {decoder} decoder", style="bold", highlight=False)
        console.print(_table(list(rows), cheapest_usd=min(of_recipe)))
    console.print(f"\n* cheapest per clip, at 480p. {_basis()}", highlight=False)


def _show_1080p(small: list[Projection], large: list[Projection]) -> None:
    """Print what a clip of 1080p takes and costs more than one of 480p: the same for each recipe, so for the first."""
    console, recipe = Console(), PRICED[0]
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("card", no_wrap=True, min_width=max(map(len, CARDS)))
    for heading in ("upscale", "encode", *recipe.decoders):
        table.add_column(heading, justify="right")
    for card in CARDS:
        pairs = [
            (less, more)
            for less, more in zip(small, large, strict=True)
            if (more.recipe, more.card) == (recipe.name, card)
        ]
        _, one = pairs[0]
        extra = [f"+{more.total_s - less.total_s:.1f} s ${more.usd - less.usd:.4f}" for less, more in pairs]
        table.add_row(card, f"{one.upscale_s:.2f} s", f"{one.encode_s:.1f} s", *extra)
    console.print("\n1080p, more than 480p, for any recipe by decoder", style="bold", highlight=False)
    console.print(table)
    console.print(
        "\nProjected as well. Encoding is for two cores and runs beside decoding and upscaling: the longer counts.",
        highlight=False,
    )


def _table(projections: list[Projection], *, cheapest_usd: float) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("card", no_wrap=True, min_width=max(map(len, CARDS)))
    for heading in (
        "denoise",
        "decode",
        "clip",
        "$ per clip",
        "+ idle tail",
        "+ cold start",
        "clips an hour",
    ):
        table.add_column(heading, justify="right", min_width=len("0.0000 *"))
    for each in projections:
        table.add_row(
            each.card,
            f"{each.denoise_s:.1f} s",
            f"{each.decode_s:.2f} s",
            f"{each.total_s:.1f} s",
            f"{each.usd:.4f}{' *' if each.usd == cheapest_usd else ''}",
            f"{each.idle_tail_usd:.4f}",
            f"{each.cold_start_usd:.4f}",
            f"{each.clips_per_hour:,.0f}",
        )
    return table


def _basis() -> str:
    return (
        f"Projected, not measured: what our engine sustained on one H200, carried to other cards by their data sheets; "
        f"rates of {MODAL_RATES.as_of:%Y-%m-%d}."
    )
