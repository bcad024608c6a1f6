"""The report as one HTML file without scripts or links; the pictures are in it."""

from __future__ import annotations

from base64 import b64encode
from html import escape
from pathlib import Path

from anime_studio.prove.histogram import histogram
from common.prove import Place, ProofReport, ProofRow, Verdict

_CLASSES = {Verdict.HOLDS: "holds", Verdict.FALLS_SHORT: "short", Verdict.NOT_CHECKED: "open"}
_STYLE = """
:root { color-scheme: light dark; --page: #f3f5fa; --card: #fff; --ink: #171b2e; --soft: #525b78; --line: #d5dbea;
  --holds: #17683a; --short: #b3261e; --open: #6b5a00;
  --kind-0: #2457c5; --kind-1: #b3541e; --kind-2: #17683a; --kind-3: #7a2f8f; }
@media (prefers-color-scheme: dark) {
  :root { --page: #10131f; --card: #1a1f30; --ink: #e8ebf5; --soft: #a3accb; --line: #343c55;
    --holds: #7fd6a0; --short: #ff9d94; --open: #e2c65c;
    --kind-0: #8fb4ff; --kind-1: #ffb380; --kind-2: #7fd6a0; --kind-3: #dfa2f0; }
}
body { margin: 0 auto; max-width: 64rem; padding: 2rem 1.25rem 4rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 "Avenir Next", "Segoe UI", system-ui, sans-serif; }
section { margin-top: 1rem; padding: 1rem 1.25rem; border: 1px solid var(--line); border-radius: 14px; background: var(--card); }
h2 { margin: 0; font-size: 1.1rem; }
p { margin: .4rem 0 0; overflow-wrap: anywhere; }
img { display: block; max-width: 100%; margin-top: .75rem; }
.wide { overflow-x: auto; }
table { margin-top: .75rem; border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .875rem; }
th, td { padding: .2rem .9rem .2rem 0; text-align: left; border-bottom: 1px solid var(--line); }
td { white-space: nowrap; }
.soft { color: var(--soft); font-size: .875rem; }
.holds { color: var(--holds); }
.short { color: var(--short); }
.open { color: var(--open); }
figure { margin: .75rem 0 0; }
figcaption { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; font-size: .875rem; }
.histogram { display: block; width: 100%; min-width: 34rem; fill: currentColor; }
.histogram rect { stroke: var(--card); }
.axis { stroke: currentColor; }
.key { width: .8rem; height: .8rem; vertical-align: -.05rem; }
.kind-0 { fill: var(--kind-0); }
.kind-1 { fill: var(--kind-1); }
.kind-2 { fill: var(--kind-2); }
.kind-3 { fill: var(--kind-3); }
"""


def render_page(report: ProofReport, folder: Path) -> str:
    """Return the whole document; the rows' pictures are read from *folder*."""
    counts = in_words(report)
    where = "on Modal" if report.place is Place.MODAL else "on one machine"
    cost = (
        f"; all rows were expected to cost ${report.expected_usd:.2f}, ${report.spent_usd:.2f} were counted"
    )
    return "\n".join(
        (
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Proof of {escape(report.recipe)}</title><style>{_STYLE}</style></head><body><main>",
            f"<h1>{escape(report.recipe)} {where}: {counts}</h1>",
            f"<p class='soft'>anime-studio {escape(report.version)}, device {escape(report.device)}"
            f"{cost if report.expected_usd else ''}</p>",
            *_prompts(report),
            *(_section(row, folder) for row in report.rows),
            "</main></body></html>",
        )
    )


def in_words(report: ProofReport) -> str:
    """Return how many rows ended how: `5 rows hold, 1 falls short, 2 were not checked`."""
    held, short, open_yet = (sum(row.verdict is verdict for row in report.rows) for verdict in Verdict)
    parts = [f"{held} {'row holds' if held == 1 else 'rows hold'}"]
    if short:
        parts.append(f"{short} {'falls' if short == 1 else 'fall'} short")
    if open_yet:
        parts.append(f"{open_yet} {'was' if open_yet == 1 else 'were'} not checked")
    return ", ".join(parts)


def _prompts(report: ProofReport) -> tuple[str, ...]:
    """Return the prompts of a file, if they are that."""
    if not report.prompts:
        return ()
    return ("<p>Prompts:</p><ol>", *(f"<li>{escape(prompt)}</li>" for prompt in report.prompts), "</ol>")


def _section(row: ProofRow, folder: Path) -> str:
    picture = ""
    if row.picture is not None and (file := folder / row.picture).exists():
        data = b64encode(file.read_bytes()).decode()
        picture = f'<img alt="Stills of row {escape(row.name)}" src="data:image/png;base64,{data}">'
    starts = histogram(row.starts_s, "starts") if row.starts_s else ""
    return (
        f'<section><h2>{escape(row.name)}: <span class="{_CLASSES[row.verdict]}">{row.verdict.value}</span></h2>'
        f"<p>{escape(row.detail)}</p>{_table(row)}{starts}{picture}<p class='soft'>{row.checked_at:%Y-%m-%d %H:%M} UTC, "
        f"{row.seconds:.0f} s{f', ${row.usd:.4f}' if row.usd else ''}</p></section>"
    )


def _table(row: ProofRow) -> str:
    if not row.table:
        return ""
    heading, *lines = row.table
    head = "".join(f"<th scope='col'>{escape(cell)}</th>" for cell in heading)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>" for line in lines)
    region = f"<div class='wide' role='region' tabindex='0' aria-label='Figures of row {escape(row.name)}'>"
    return f"{region}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
