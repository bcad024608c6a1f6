"""The report of a show as one HTML file without scripts or links; its charts are inline SVG."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from html import escape

from anime_studio.core.stage_words import STAGE_WORDS
from common.schemas import JobState
from common.show import FinishedJob, Percentiles, ShowStatus

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 880, 240, 56, 28, 12
WIDEST_BAR = 40.0
_STAGES = ("queue", "start", "text", "denoise", "decode", "upscale", "store")
_STAGE_COLOURS = {
    "queue": "#b9c3dd",
    "start": "#f0a36b",
    "text": "#6bb8a8",
    "denoise": "#2a55d6",
    "decode": "#7c93ea",
    "upscale": "#c58fd6",
    "store": "#5a4a8c",
}
_STATE_COLOURS = {JobState.SUCCEEDED: "#2a55d6", JobState.FAILED: "#c8321f", JobState.CANCELLED: "#7d87a6"}

_STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 58rem; padding: 2rem 1.25rem 4rem; background: #f3f5fa; color: #171b2e;
  font: 16px/1.5 "Avenir Next", "Segoe UI", system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.75rem; letter-spacing: -.015em; }
h2 { margin: 0 0 .75rem; font-size: 1.1rem; }
section, .tiles > div { border: 1px solid #d5dbea; border-radius: 14px; background: #fff; padding: 1.1rem 1.25rem; }
section { margin-top: 1.25rem; }
.scroll { overflow-x: auto; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); gap: .75rem; margin-top: 1.25rem; }
.tiles b { display: block; font-size: 1.5rem; font-variant-numeric: tabular-nums; }
.soft, td.soft { color: #525b78; font-size: .875rem; }
table { width: 100%; border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .8rem .4rem 0; border-bottom: 1px solid #e4e8f3; text-align: left; vertical-align: baseline; }
svg { display: block; width: 100%; height: auto; font: 12px system-ui, sans-serif; }
svg text { fill: #525b78; }
code { font: .8rem ui-monospace, monospace; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: .9rem; }
figure { margin: 0; overflow-wrap: anywhere; overflow: hidden; font-size: .875rem; }
figure img { display: block; width: 100%; aspect-ratio: 832 / 480; object-fit: cover; border-radius: 8px; background: #1d2547; }
.key span { display: inline-block; margin-right: 1rem; }
.key i { display: inline-block; width: .7rem; height: .7rem; margin-right: .35rem; border-radius: 3px; }
"""


@dataclass(frozen=True, slots=True)
class Poster:
    """A clip of the night, as its channel shows it."""

    jpeg: bytes
    prompt: str
    requested_by: str | None
    finished_at: datetime


def render_report(status: ShowStatus, posters: Sequence[Poster] = ()) -> str:
    """Return the whole document for *status*, which lists its jobs newest first, with the *posters* of a channel."""
    jobs = sorted(status.jobs, key=lambda job: job.finished_at)
    since = status.now - timedelta(seconds=status.window_s)
    note = "Only the newest jobs are counted: more ended in this time. " if status.truncated else ""
    return "\n".join(
        (
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Show report {status.now:%Y-%m-%d}</title><style>{_STYLE}</style></head><body>",
            f"<main><h1>Show report</h1><p class='soft'>{since:%Y-%m-%d %H:%M} to {status.now:%Y-%m-%d %H:%M} UTC, "
            f"recipe {escape(status.recipe)}, version {escape(status.version)}. {note}</p>",
            _tiles(status),
            *([_section("Clips", _gallery(posters))] if posters else []),
            _section(
                "Seconds of each clip, by stage",
                _stacks(jobs)
                + _key((STAGE_WORDS[stage], colour) for stage, colour in _STAGE_COLOURS.items()),
            ),
            _section("From asking to ready, over the night", _timeline(jobs) + _state_key()),
            _section("Spend, added up", _spend(jobs)),
            _section("Stages", _stage_table(status)),
            _section(f"Every job: {len(jobs)}", _every_job(jobs)),
            "</main></body></html>",
        )
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _tiles(status: ShowStatus) -> str:
    spend, total = status.spend, status.stages.get("total")
    rate = "–" if status.success_rate is None else f"{status.success_rate:.1%}"
    per_clip = "no clip" if spend.usd_per_clip is None else f"${spend.usd_per_clip:.4f} a clip"
    budget = "" if spend.budget_used is None else f", {spend.budget_used:.0%} of budget"
    of_size = f"of {next(iter(status.stages_by_size))}, " if len(status.stages_by_size) > 1 else ""
    tiles = (
        ("clips", str(status.succeeded), f"{status.failed} failed, {status.cancelled} cancelled"),
        ("success", rate, "of those that ended by themselves"),
        (
            "median, all in",
            f"{total.p50_s:.1f} s" if total else "–",
            f"{of_size}p95 {total.p95_s:.1f} s" if total else "",
        ),
        ("cold starts", str(status.cold_starts), "restored, cold or recovered"),
        ("spent", f"${spend.usd:.4f}" if spend.usd else "$0", per_clip + budget),
        ("fallbacks", str(status.fallbacks), "told to the process that answered"),
    )
    cells = (
        f"<div><b>{value}</b>{name}<div class='soft'>{escape(note)}</div></div>"
        for name, value, note in tiles
    )
    return f"<div class='tiles'>{''.join(cells)}</div>"


def _stacks(jobs: Sequence[FinishedJob]) -> str:
    succeeded = [job for job in jobs if job.state is JobState.SUCCEEDED]
    seconds = [[getattr(job.timings, f"{stage}_s") or 0.0 for stage in _STAGES] for job in succeeded]
    longest_s = max((sum(stages) for stages in seconds), default=0.0)
    if not longest_s:
        return "<p class='soft'>No clip in this time.</p>"
    width = min(WIDEST_BAR, max(1.0, _step(len(succeeded)) * 0.8))
    bars = []
    for index, stages in enumerate(seconds):
        top = float(HEIGHT - BOTTOM)
        for stage, length_s in zip(_STAGES, stages, strict=True):
            height = (HEIGHT - BOTTOM - TOP) * length_s / longest_s
            top -= height
            bars.append(
                f'<rect x="{_x_of(index, len(succeeded)) - width / 2:.1f}" y="{top:.1f}" width="{width:.1f}" '
                f'height="{height:.1f}" fill="{_STAGE_COLOURS[stage]}"/>'
            )
    return _chart("Seconds of each clip by stage", f"{longest_s:.1f} s", bars, *_ends(succeeded))


def _timeline(jobs: Sequence[FinishedJob]) -> str:
    seconds = [(job.finished_at - job.created_at).total_seconds() for job in jobs]
    longest_s = max(seconds, default=0.0)
    if longest_s <= 0:
        return "<p class='soft'>No job in this time.</p>"
    radius = min(4.0, max(1.2, _step(len(jobs)) / 2))
    dots = [
        f'<circle cx="{_x_of(index, len(jobs)):.1f}" cy="{_y_of(max(0.0, took_s) / longest_s):.1f}" r="{radius:.1f}" '
        f'fill="{_STATE_COLOURS[job.state]}"><title>{escape(job.request_id)}: {took_s:.1f} s, {job.state}</title></circle>'
        for index, (job, took_s) in enumerate(zip(jobs, seconds, strict=True))
    ]
    return _chart("Seconds from asking to the end", f"{longest_s:.1f} s", dots, *_ends(jobs))


def _spend(jobs: Sequence[FinishedJob]) -> str:
    total_usd = sum(job.cost.usd for job in jobs if job.cost)
    if not total_usd:
        return "<p class='soft'>Nothing was billed.</p>"
    sum_usd, points = 0.0, [f"{LEFT},{_y_of(0):.1f}"]
    for index, job in enumerate(jobs):
        sum_usd += job.cost.usd if job.cost else 0.0
        points.append(f"{_x_of(index, len(jobs)):.1f},{_y_of(sum_usd / total_usd):.1f}")
    line = f'<polyline points="{" ".join(points)}" fill="none" stroke="#2a55d6" stroke-width="2.5"/>'
    return _chart("Dollars spent so far", f"${total_usd:.4f}", [line], *_ends(jobs))


def _step(count: int) -> float:
    return (WIDTH - LEFT) / count


def _x_of(index: int, count: int) -> float:
    """Return the middle of a job's own place: jobs that ended at one moment stay apart."""
    return LEFT + _step(count) * (index + 0.5)


def _y_of(share: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * share


def _ends(jobs: Sequence[FinishedJob]) -> tuple[str, str]:
    if len(jobs) == 1:
        return "", f"the only one, {jobs[0].finished_at:%H:%M} UTC"
    return f"first, {jobs[0].finished_at:%H:%M} UTC", f"last, {jobs[-1].finished_at:%H:%M} UTC"


def _chart(title: str, most: str, marks: Iterable[str], first: str, last: str) -> str:
    base = HEIGHT - BOTTOM
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f'<path d="M{LEFT} {TOP}V{base}H{WIDTH}" fill="none" stroke="#b9c3dd"/>'
        f'<text x="{LEFT - 8}" y="{TOP + 8}" text-anchor="end">{most}</text>'
        f'<text x="{LEFT - 8}" y="{base}" text-anchor="end">0</text>{"".join(marks)}'
        f'<text x="{LEFT}" y="{HEIGHT - 8}">{first}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT - 8}" text-anchor="end">{last}</text></svg>'
    )


def _key(colours: Iterable[tuple[str, str]]) -> str:
    entries = "".join(
        f'<span><i style="background:{colour}"></i>{escape(name)}</span>' for name, colour in colours
    )
    return f"<p class='key soft'>{entries}</p>"


def _state_key() -> str:
    return _key((state.value, colour) for state, colour in _STATE_COLOURS.items())


def _stage_table(status: ShowStatus) -> str:
    head = "".join(f"<th scope='col'>{name}</th>" for name in ("Stage", "p50 s", "p95 s", "jobs"))
    sizes = status.stages_by_size
    groups = (
        (f"<tr><th colspan='4' scope='rowgroup'>{size}</th></tr>" if len(sizes) > 1 else "")
        + _stage_rows(stages)
        for size, stages in sizes.items()
    )
    return (
        f"<table><thead><tr>{head}</tr></thead>{''.join(f'<tbody>{rows}</tbody>' for rows in groups)}</table>"
    )


def _stage_rows(stages: Mapping[str, Percentiles]) -> str:
    return "".join(
        f"<tr><th scope='row'>{escape(STAGE_WORDS.get(name, name))}</th><td>{stage.p50_s:.2f}</td>"
        f"<td>{stage.p95_s:.2f}</td><td>{stage.count}</td></tr>"
        for name, stage in stages.items()
    )


def _every_job(jobs: Sequence[FinishedJob]) -> str:
    if not jobs:
        return "<p class='soft'>No job in this time.</p>"
    rows = "".join(
        f"<tr><td>{job.finished_at:%H:%M:%S}</td><td>{job.state}</td><td>{_seconds(job.timings.queue_s)}</td>"
        f"<td>{_seconds(job.timings.total_s)}</td><td>{job.resolution or ''}</td><td>{job.start_kind or ''}</td>"
        f"<td>{'' if job.cost is None else f'${job.cost.usd:.4f}'}</td><td>{escape(job.source or '')}</td>"
        f"<td><code>{escape(job.error_code or '')}</code></td><td><code>{escape(job.request_id)}</code></td></tr>"
        for job in jobs
    )
    names = ("Ended", "As", "Waited s", "In all s", "Size", "Start", "Cost", "Through", "Code", "Request")
    head = "".join(f"<th scope='col'>{name}</th>" for name in names)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f"<div class='scroll' tabindex='0' role='group' aria-label='Every job'>{table}</div>"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _gallery(posters: Sequence[Poster]) -> str:
    figures = "".join(
        f"<figure><img alt='' src='data:image/jpeg;base64,{b64encode(poster.jpeg).decode()}'>"
        f"<figcaption>{escape(_cut(poster.prompt))}<div class='soft'>{poster.finished_at:%H:%M} UTC"
        f"{f', for {escape(poster.requested_by)}' if poster.requested_by else ''}</div></figcaption></figure>"
        for poster in posters
    )
    return f"<div class='gallery'>{figures}</div>"


def _cut(text: str, most: int = 160) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
