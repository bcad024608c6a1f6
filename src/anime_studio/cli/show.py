"""`watch`, `report`, `warm`, `preflight`: the commands of the operator of a live show."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from anime_studio.cli.generate import studio_at
from anime_studio.cli.operator import Keys, OperatorKey, jobs_table, key_within, single_keys
from anime_studio.cli.output import ExitCode, JsonOption, UrlOption, answering
from anime_studio.cli.preflight import examine
from anime_studio.cli.show_report import Poster, render_report
from anime_studio.client import DEFAULT_URL, StudioClient, StudioError
from anime_studio.core.plain_text import visible
from anime_studio.core.readiness import needs_a_person
from anime_studio.core.stage_words import STAGE_WORDS
from common.schemas import SignalKind
from common.show import ChannelClip, Percentiles, ShowStatus

LONGEST_REPORT_H = 7 * 24
MOST_POSTERS = 100
WARN_AT_BUDGET_SHARE = 0.8
_STATUS_STYLES = {"ready": "green", "asleep": "blue", "starting": "yellow", "unavailable": "red"}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(watch)
    app.command()(report)
    app.command()(warm)
    app.command()(preflight)


def watch(
    url: UrlOption = DEFAULT_URL,
    every: Annotated[float, typer.Option(min=0.5, help="Seconds between looks.")] = 2.0,
    window: Annotated[int, typer.Option(min=60, help="Seconds to look back.")] = 3600,
    once: Annotated[bool, typer.Option("--once", help="Look once and end.")] = False,
    key: OperatorKey = None,
    as_json: JsonOption = False,
) -> None:
    """Show how the show goes, until Ctrl-C; keys pause, stop, hide and clear. With --json, look once."""
    with answering(as_json=as_json) as output, studio_at(url) as studio:
        if as_json:
            output.result(studio.show_status(window_s=window), "")
            return
        with Live(screen=not once, auto_refresh=False) as live, single_keys() as has_keys:
            keys = Keys(studio, key)
            while True:
                operators = _operators_view(studio, key, keys.said if has_keys else Text())
                live.update(Group(_current_status(studio, window), Text(), operators), refresh=True)
                if once:
                    return
                if not has_keys:
                    time.sleep(every)
                elif pressed := key_within(every):
                    keys.press(pressed)


def report(
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")] = Path("show.html"),
    channel: Annotated[
        str | None,
        typer.Option(
            help="Show this channel's clips, with their prompts and who asked; at most the newest 100."
        ),
    ] = None,
    hours: Annotated[float, typer.Option(min=0.1, max=LONGEST_REPORT_H, help="How far to look back.")] = 6.0,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Write one HTML file about the show: every job, its seconds, its cost; it needs nothing else to open."""
    with answering(as_json=as_json) as output, studio_at(url) as studio:
        status = studio.show_status(window_s=round(hours * 3600), jobs=1000)
        posters = [] if channel is None else posters_of(studio, channel, status)
        out.write_text(render_report(status, posters), encoding="utf-8")
        clips = f"{status.succeeded} clips, {status.failed} failed, {status.cancelled} cancelled"
        output.result({"file": str(out), "finished": status.finished}, f"{out}: {clips}")


def posters_of(studio: StudioClient, channel: str, status: ShowStatus) -> list[Poster]:
    """Return the channel's clips of the report's time, oldest first; whoever knows the channel may see them."""
    since = status.now - timedelta(seconds=status.window_s)
    clips: deque[ChannelClip] = deque(maxlen=MOST_POSTERS)
    page = studio.channel_clips(channel, 0)
    while True:
        clips.extend(entry for entry in page.clips if entry.finished_at >= since)
        if not page.more:
            break
        page = studio.channel_clips(channel, page.next_after)
    posters = []
    with httpx.Client(timeout=30, follow_redirects=True) as http:
        for entry in clips:
            answer = http.get(entry.clip.poster_url)
            if answer.is_success:  # one that was swept meanwhile is left out
                posters.append(Poster(answer.content, entry.prompt, entry.requested_by, entry.finished_at))
    return posters


def warm(
    url: UrlOption = DEFAULT_URL,
    timeout: Annotated[float, typer.Option(min=0, help="Wait so many seconds for it to be ready.")] = 120.0,
    as_json: JsonOption = False,
) -> None:
    """Wake a worker before the show and wait until it is ready. Ends with 6 if it does not get ready."""
    with answering(as_json=as_json) as output, studio_at(url) as studio:
        deadline = time.monotonic() + timeout
        readiness = studio.warm()
        while readiness.status != "ready" and not needs_a_person(readiness) and time.monotonic() < deadline:
            time.sleep(1)
            readiness = studio.ready()
        output.result(readiness, f"{readiness.status}: {readiness.detail}")
        if readiness.status != "ready":
            raise typer.Exit(ExitCode.UNAVAILABLE)


def preflight(
    url: UrlOption = DEFAULT_URL,
    timeout: Annotated[
        float, typer.Option(min=1, help="Longest wait for the test clip, in seconds.")
    ] = 300.0,
    as_json: JsonOption = False,
) -> None:
    """Prove the whole path before going live, with one real clip. Ends with 1 if anything fails."""
    with answering(as_json=as_json) as output:
        checks = []
        for check in examine(url, timeout):
            checks.append(check)
            output.info(f"{'ok    ' if check.passed else 'FAILED'}  {check.name:<9} {check.detail}")
        passed = all(check.passed for check in checks)
        document = {"passed": passed, "checks": [check.model_dump() for check in checks]}
        output.result(document, "ready to go live" if passed else "not ready to go live")
        if not passed:
            raise typer.Exit(ExitCode.FAILED)


def _current_status(studio: StudioClient, window_s: int) -> RenderableType:
    try:
        return render_status(studio.show_status(window_s=window_s))
    except StudioError as error:
        return Text(f"{datetime.now().astimezone():%H:%M:%S}  {visible(str(error))}", style="red")


def _operators_view(studio: StudioClient, key: str | None, said: Text) -> RenderableType:
    try:
        view = studio.operator_view(key)
    except StudioError as error:
        return Text(visible(error.problem.detail), style="dim")
    paused = Text("new orders are refused", style="yellow") if view.paused else Text()
    silent = [channel for channel in view.channels if channel.silent]
    warning = Text(
        "".join(
            f"nobody looks at channel {channel.channel} for {channel.asked_s:.0f} s\n" for channel in silent
        ),
        style="yellow",
    )
    return Group(paused, jobs_table(view), warning, said)


def render_status(status: ShowStatus) -> RenderableType:
    """Return the operator's view for a terminal."""
    readiness = status.readiness
    head = Text.assemble(
        ("● ", _STATUS_STYLES[readiness.status]),
        (readiness.status, "bold"),
        f"  {visible(readiness.detail)}  ·  {status.recipe}  ·  {status.now.astimezone():%H:%M:%S}",
    )
    return Group(head, Text(), _numbers(status), Text(), *_stages(status), _errors(status))


def _numbers(status: ShowStatus) -> Table:
    spend, table = status.spend, Table.grid(padding=(0, 3))
    rate = "–" if status.success_rate is None else f"{status.success_rate:.1%}"
    per_clip = "" if spend.usd_per_clip is None else f", ${spend.usd_per_clip:.4f} a clip"
    budget = "" if spend.budget_used is None else f" ({spend.budget_used:.0%} of budget)"
    errors = status.signals.get(SignalKind.PLAYBACK_ERROR, 0)
    for name, value in (
        (
            "success",
            f"{rate}  {status.succeeded} clips, {status.failed} failed, {status.cancelled} cancelled",
        ),
        ("backlog", f"{status.readiness.queued} waiting, {status.readiness.running} being drawn"),
        ("cold starts", str(status.cold_starts)),
        ("spent", f"${spend.usd:.4f}{per_clip}{budget}"),
        ("today", _against_budget(spend.today_usd, spend.budget_usd_per_day)),
        ("this month", _against_budget(spend.month_usd, spend.budget_usd_per_month)),
        ("fallbacks", f"{status.fallbacks}, {errors} playback errors"),
    ):
        table.add_row(Text(name, style="dim"), value)
    if status.weights_note is not None:
        table.add_row(Text("weights", style="dim"), Text(visible(status.weights_note), style="yellow"))
    return table


def _against_budget(spent_usd: float, budget_usd: float | None) -> Text:
    if budget_usd is None:
        return Text(f"${spent_usd:.4f}")
    share = spent_usd / budget_usd
    warning = ", spent" if share >= 1 else ", nearly spent" if share >= WARN_AT_BUDGET_SHARE else ""
    return Text(f"${spent_usd:.4f}, {share:.0%} of ${budget_usd:.2f}{warning}", "yellow" if warning else "")


def _stages(status: ShowStatus) -> Iterator[RenderableType]:
    """Yield a table for each size that clips had, and a line after it."""
    all_stages = [stage for stages in status.stages_by_size.values() for stage in stages.values()]
    longest_s = max((stage.p95_s for stage in all_stages), default=0.0) or 1.0
    for size, stages in status.stages_by_size.items():
        if len(status.stages_by_size) > 1:
            yield Text(size, style="bold")
        yield _stage_table(stages, longest_s)
        yield Text()


def _stage_table(stages: Mapping[str, Percentiles], longest_s: float) -> Table:
    table = Table("stage", box=None, padding=(0, 2), header_style="dim")
    for column in ("p50 s", "p95 s", "jobs"):
        table.add_column(column, justify="right")
    table.add_column("")
    for name, stage in stages.items():
        table.add_row(
            STAGE_WORDS.get(name, name),
            f"{stage.p50_s:.2f}",
            f"{stage.p95_s:.2f}",
            str(stage.count),
            _bar(stage, longest_s),
        )
    return table


def _bar(stage: Percentiles, longest_s: float, width: int = 30) -> Text:
    p50 = round(width * stage.p50_s / longest_s)
    p95 = round(width * stage.p95_s / longest_s)
    return Text.assemble(("█" * p50, "blue"), ("░" * (p95 - p50), "blue"))


def _errors(status: ShowStatus) -> RenderableType:
    if not status.errors:
        return Text("no errors", style="dim")
    table = Table("at", "code", "request", "what happened", box=None, padding=(0, 2), header_style="dim")
    for error in status.errors:
        table.add_row(
            f"{error.at.astimezone():%H:%M:%S}",
            Text(error.code, style="red"),
            error.request_id,
            visible(error.detail),
        )
    return table
