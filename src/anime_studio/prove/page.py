"""The report as one HTML file without scripts or links; the pictures are in it."""

from __future__ import annotations

from base64 import b64encode
from html import escape
from pathlib import Path

from common.prove import Place, ProofReport, ProofRow, Verdict

_COLOURS = {Verdict.HOLDS: "#17683a", Verdict.FALLS_SHORT: "#b3261e", Verdict.NOT_CHECKED: "#6b5a00"}
_STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 64rem; padding: 2rem 1.25rem 4rem; background: #f3f5fa; color: #171b2e;
  font: 16px/1.5 "Avenir Next", "Segoe UI", system-ui, sans-serif; }
section { margin-top: 1rem; padding: 1rem 1.25rem; border: 1px solid #d5dbea; border-radius: 14px; background: #fff; }
h2 { margin: 0; font-size: 1.1rem; }
p { margin: .4rem 0 0; overflow-wrap: anywhere; }
img { display: block; max-width: 100%; margin-top: .75rem; }
.wide { overflow-x: auto; }
table { margin-top: .75rem; border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .875rem; }
th, td { padding: .2rem .9rem .2rem 0; text-align: left; border-bottom: 1px solid #d5dbea; }
td { white-space: nowrap; }
.soft { color: #525b78; font-size: .875rem; }
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


def _section(row: ProofRow, folder: Path) -> str:
    picture = ""
    if row.picture is not None and (file := folder / row.picture).exists():
        data = b64encode(file.read_bytes()).decode()
        picture = f'<img alt="Stills of row {escape(row.name)}" src="data:image/png;base64,{data}">'
    return (
        f'<section><h2>{escape(row.name)}: <span style="color:{_COLOURS[row.verdict]}">{row.verdict.value}</span></h2>'
        f"<p>{escape(row.detail)}</p>{_table(row)}{picture}<p class='soft'>{row.checked_at:%Y-%m-%d %H:%M} UTC, "
        f"{row.seconds:.0f} s{f', ${row.usd:.4f}' if row.usd else ''}</p></section>"
    )


def _table(row: ProofRow) -> str:
    if not row.table:
        return ""
    heading, *lines = row.table
    head = "".join(f"<th scope='col'>{escape(cell)}</th>" for cell in heading)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>" for line in lines)
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
