"""The night in one HTML file: no script, no font, no picture from elsewhere; charts are inline SVG."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from html import escape

from common.schemas import JobState
from common.show import FinishedJob, ShowStatus

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 880, 240, 56, 28, 12
_STAGES = ("queue", "start", "text", "denoise", "decode", "store")
_STAGE_COLOURS = {
    "queue": "#b9c3dd",
    "start": "#f0a36b",
    "text": "#6bb8a8",
    "denoise": "#2a55d6",
    "decode": "#7c93ea",
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
section { margin-top: 1.25rem; overflow-x: auto; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); gap: .75rem; margin-top: 1.25rem; }
.tiles b { display: block; font-size: 1.5rem; font-variant-numeric: tabular-nums; }
.soft, td.soft { color: #525b78; font-size: .875rem; }
table { width: 100%; border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .8rem .4rem 0; border-bottom: 1px solid #e4e8f3; text-align: left; vertical-align: baseline; }
svg { display: block; width: 100%; height: auto; font: 12px system-ui, sans-serif; }
svg text { fill: #525b78; }
code { font: .8rem ui-monospace, monospace; }
.key span { display: inline-block; margin-right: 1rem; }
.key i { display: inline-block; width: .7rem; height: .7rem; margin-right: .35rem; border-radius: 3px; }
"""


def render_report(status: ShowStatus) -> str:
    """Return the whole document for *status*, which lists its jobs newest first."""
    jobs = sorted(status.jobs, key=lambda job: job.finished_at)
    since = status.now - timedelta(seconds=status.window_s)
    note = "Only the newest jobs are counted: more ended in this time. " if status.truncated else ""
    return "\n".join(
        (
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Show report {status.now:%Y-%m-%d}</title><style>{_STYLE}</style></head><body>",
            f"<h1>Show report</h1><p class='soft'>{since:%Y-%m-%d %H:%M} to {status.now:%Y-%m-%d %H:%M} UTC, "
            f"recipe {escape(status.recipe)}, version {escape(status.version)}. {note}</p>",
            _tiles(status),
            _section("Seconds of each clip, by stage", _stacks(jobs) + _key(_STAGE_COLOURS.items())),
            _section("From asking to ready, over the night", _timeline(jobs) + _state_key()),
            _section("Spend, added up", _spend(jobs)),
            _section("Stages", _stage_table(status)),
            _section("Without a clip", _failures(jobs)),
            "</body></html>",
        )
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _tiles(status: ShowStatus) -> str:
    spend, total = status.spend, status.stages.get("total")
    rate = "–" if status.success_rate is None else f"{status.success_rate:.1%}"
    per_clip = "no clip" if spend.usd_per_clip is None else f"${spend.usd_per_clip:.4f} a clip"
    budget = "" if spend.budget_used is None else f", {spend.budget_used:.0%} of budget"
    tiles = (
        ("clips", str(status.succeeded), f"{status.failed} failed, {status.cancelled} cancelled"),
        ("success", rate, "of those that ended by themselves"),
        (
            "median, all in",
            f"{total.p50_s:.1f} s" if total else "–",
            f"p95 {total.p95_s:.1f} s" if total else "",
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
    drawn = [job for job in jobs if job.state is JobState.SUCCEEDED]
    seconds = [[getattr(job.timings, f"{stage}_s") or 0.0 for stage in _STAGES] for job in drawn]
    longest_s = max((sum(stages) for stages in seconds), default=0.0)
    if not longest_s:
        return "<p class='soft'>No clip in this time.</p>"
    step = (WIDTH - LEFT) / len(drawn)
    bars = []
    for index, stages in enumerate(seconds):
        top = float(HEIGHT - BOTTOM)
        for stage, length_s in zip(_STAGES, stages, strict=True):
            height = (HEIGHT - BOTTOM - TOP) * length_s / longest_s
            top -= height
            bars.append(
                f'<rect x="{LEFT + index * step:.1f}" y="{top:.1f}" width="{max(1.0, step * 0.8):.1f}" '
                f'height="{height:.1f}" fill="{_STAGE_COLOURS[stage]}"/>'
            )
    return _chart("Seconds of each clip by stage", f"{longest_s:.1f} s", bars, "first clip", "last clip")


def _timeline(jobs: Sequence[FinishedJob]) -> str:
    points = [(job, (job.finished_at - job.created_at).total_seconds()) for job in jobs]
    longest_s = max((seconds for _, seconds in points), default=0.0)
    if not longest_s:
        return "<p class='soft'>No job in this time.</p>"
    axis = _TimeAxis(jobs)
    dots = [
        f'<circle cx="{axis.x_of(job):.1f}" cy="{_y_of(seconds / longest_s):.1f}" r="4" fill="{_STATE_COLOURS[job.state]}" '
        f'fill-opacity=".75"><title>{escape(job.request_id)}: {seconds:.1f} s, {job.state}</title></circle>'
        for job, seconds in points
    ]
    return _chart("Seconds from asking to the end", f"{longest_s:.1f} s", dots, *_ends(jobs))


def _spend(jobs: Sequence[FinishedJob]) -> str:
    total_usd = sum(job.cost.usd for job in jobs if job.cost)
    if not total_usd:
        return "<p class='soft'>Nothing was billed.</p>"
    axis, sum_usd, points = _TimeAxis(jobs), 0.0, [f"{LEFT},{_y_of(0):.1f}"]
    for job in jobs:
        sum_usd += job.cost.usd if job.cost else 0.0
        points.append(f"{axis.x_of(job):.1f},{_y_of(sum_usd / total_usd):.1f}")
    line = f'<polyline points="{" ".join(points)}" fill="none" stroke="#2a55d6" stroke-width="2.5"/>'
    return _chart("Dollars spent so far", f"${total_usd:.4f}", [line], *_ends(jobs))


class _TimeAxis:
    """Where along the width a job ended."""

    def __init__(self, jobs: Sequence[FinishedJob]) -> None:
        self._first = jobs[0].finished_at
        self._span_s = max(1.0, (jobs[-1].finished_at - self._first).total_seconds())

    def x_of(self, job: FinishedJob) -> float:
        return LEFT + (WIDTH - LEFT - 8) * (job.finished_at - self._first).total_seconds() / self._span_s


def _y_of(share: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * share


def _ends(jobs: Sequence[FinishedJob]) -> tuple[str, str]:
    return f"{jobs[0].finished_at:%H:%M} UTC", f"{jobs[-1].finished_at:%H:%M} UTC"


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
    rows = "".join(
        f"<tr><th scope='row'>{escape(name)}</th><td>{stage.p50_s:.2f}</td><td>{stage.p95_s:.2f}</td><td>{stage.count}</td></tr>"
        for name, stage in status.stages.items()
    )
    return f"<table><tr><th>Stage</th><th>p50 s</th><th>p95 s</th><th>jobs</th></tr>{rows}</table>"


def _failures(jobs: Sequence[FinishedJob]) -> str:
    lost = [job for job in jobs if job.state is not JobState.SUCCEEDED]
    if not lost:
        return "<p class='soft'>Every job has its clip.</p>"
    rows = "".join(
        f"<tr><td>{job.finished_at:%H:%M:%S}</td><td>{job.state}</td><td><code>{escape(job.error_code or '')}</code></td>"
        f"<td><code>{escape(job.request_id)}</code></td><td>{escape(job.source or '')}</td></tr>"
        for job in lost
    )
    return f"<table><tr><th>Ended</th><th>As</th><th>Code</th><th>Request</th><th>Asked by</th></tr>{rows}</table>"
