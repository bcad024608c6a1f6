"""A histogram of seconds by kind, as SVG in an HTML page, with the same numbers as a table below it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

KINDS: Final = 4
"""So many colours the page has, `.kind-0` to `.kind-3`; further kinds begin again with the first."""
_MOST_BINS: Final = 16
_WIDTH, _HEIGHT, _TOP, _LEFT, _BOTTOM = 720, 240, 24, 16, 44
_FONT_SIZE: Final = 13


def histogram(seconds: Mapping[str, Sequence[float]], what: str) -> str:
    """Return the picture, its legend and its table.

    Args:
        seconds: Of each, by kind; at least one.
        what: What is counted, in the plural: "starts".
    """
    width_s = _bin_width_s(max(max(some) for some in seconds.values()))
    counts = {kind: _counts(some, width_s) for kind, some in seconds.items()}
    bins = max(len(some) for some in counts.values())
    counts = {kind: some + [0] * (bins - len(some)) for kind, some in counts.items()}
    legend = " ".join(
        f'<span><svg class="key" aria-hidden="true" viewBox="0 0 1 1"><rect class="kind-{index % KINDS}" width="1" '
        f'height="1"/></svg> {escape(kind)}: {sum(some)}</span>'
        for index, (kind, some) in enumerate(counts.items())
    )
    picture = _region("Histogram", _picture(counts, width_s, what))
    return f"<figure>{picture}<figcaption>{legend}</figcaption></figure>{_table(counts, width_s, what)}"


def _bin_width_s(longest_s: float) -> float:
    """Return the smallest of 0.1, 0.2, 0.5, 1, 2, 5, 10 … with which `_MOST_BINS` reach beyond *longest_s*."""
    exponent = -1
    while True:
        for factor in (1, 2, 5):
            width_s = factor * 10.0**exponent
            if longest_s < _MOST_BINS * width_s:
                return width_s
        exponent += 1


def _counts(seconds: Sequence[float], width_s: float) -> list[int]:
    # Rounded first: 0.3 / 0.1 is a little less than 3.
    places = [math.floor(round(each / width_s, 9)) for each in seconds]
    return [places.count(place) for place in range(max(places) + 1)]


def _picture(counts: Mapping[str, Sequence[int]], width_s: float, what: str) -> str:
    sums = [sum(column) for column in zip(*counts.values(), strict=True)]
    step = (_WIDTH - 2 * _LEFT) / len(sums)
    unit = (_HEIGHT - _TOP - _BOTTOM) / max(sums)
    floor = _HEIGHT - _BOTTOM
    parts: list[str] = []
    for place, total in enumerate(sums):
        left, top = _LEFT + place * step, float(floor)
        for index, some in enumerate(counts.values()):
            if some[place]:
                top -= some[place] * unit
                parts.append(
                    f'<rect class="kind-{index % KINDS}" x="{left + 2:.1f}" y="{top:.1f}" width="{step - 4:.1f}" '
                    f'height="{some[place] * unit:.1f}"/>'
                )
        if total:
            parts.append(_text(left + step / 2, top - 6, str(total)))
        parts.append(_text(left, floor + 18, f"{place * width_s:g}"))
    parts.append(_text(_WIDTH - _LEFT, floor + 18, f"{len(sums) * width_s:g}"))
    parts.append(_text(_WIDTH / 2, floor + 38, "seconds"))
    return (
        f'<svg class="histogram" role="img" aria-label="Histogram of {sum(sums)} {escape(what)} by seconds; the table below '
        f'has its numbers" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-size="{_FONT_SIZE}">{"".join(parts)}'
        f'<path class="axis" d="M{_LEFT} {floor}H{_WIDTH - _LEFT}"/></svg>'
    )


def _text(x: float, y: float, words: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle">{words}</text>'


def _table(counts: Mapping[str, Sequence[int]], width_s: float, what: str) -> str:
    head = "".join(f"<th scope='col'>{escape(cell)}</th>" for cell in ("seconds", *counts))
    lines = [
        f"<tr><td>{place * width_s:g} to {(place + 1) * width_s:g}</td>{''.join(f'<td>{n}</td>' for n in column)}</tr>"
        for place, column in enumerate(zip(*counts.values(), strict=True))
        if any(column)
    ]
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return _region(f"{what.capitalize()} by seconds", table)


def _region(name: str, content: str) -> str:
    """Return *content* in a box that scrolls sideways, with the keyboard too."""
    return f"<div class='wide' role='region' tabindex='0' aria-label='{escape(name)}'>{content}</div>"
