"""The report as one HTML file without scripts or links; the pictures are in it."""

from __future__ import annotations

from base64 import b64encode
from html import escape
from pathlib import Path

from common.prove import ProofReport, ProofRow, Verdict

_COLOURS = {Verdict.HOLDS: "#17683a", Verdict.FALLS_SHORT: "#b3261e", Verdict.NOT_CHECKED: "#6b5a00"}
_STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 64rem; padding: 2rem 1.25rem 4rem; background: #f3f5fa; color: #171b2e;
  font: 16px/1.5 "Avenir Next", "Segoe UI", system-ui, sans-serif; }
section { margin-top: 1rem; padding: 1rem 1.25rem; border: 1px solid #d5dbea; border-radius: 14px; background: #fff; }
h2 { margin: 0; font-size: 1.1rem; }
p { margin: .4rem 0 0; overflow-wrap: anywhere; }
img { display: block; max-width: 100%; margin-top: .75rem; }
.soft { color: #525b78; font-size: .875rem; }
"""


def render_page(report: ProofReport, folder: Path) -> str:
    """Return the whole document; the rows' pictures are read from *folder*."""
    counts = ", ".join(
        f"{sum(row.verdict is verdict for row in report.rows)} {verdict.value}" for verdict in Verdict
    )
    return "\n".join(
        (
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Proof of {escape(report.recipe)}</title><style>{_STYLE}</style></head><body><main>",
            f"<h1>Proof of {escape(report.recipe)}: {counts}</h1>",
            f"<p class='soft'>anime-studio {escape(report.version)}, device {escape(report.device)}</p>",
            *(_section(row, folder) for row in report.rows),
            "</main></body></html>",
        )
    )


def _section(row: ProofRow, folder: Path) -> str:
    picture = ""
    if row.picture is not None and (file := folder / row.picture).exists():
        data = b64encode(file.read_bytes()).decode()
        picture = f'<img alt="Stills of row {escape(row.name)}" src="data:image/png;base64,{data}">'
    return (
        f'<section><h2>{escape(row.name)}: <span style="color:{_COLOURS[row.verdict]}">{row.verdict.value}</span></h2>'
        f"<p>{escape(row.detail)}</p>{picture}<p class='soft'>{row.checked_at:%Y-%m-%d %H:%M} UTC</p></section>"
    )
