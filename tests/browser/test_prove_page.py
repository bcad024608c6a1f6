"""The page of `prove` in Chromium: readable in light and in dark, wide and narrow, with a histogram of the starts."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from anime_studio.prove.page import render_page
from common.prove import ProofReport, ProofRow, Verdict
from support.accessibility import assert_accessible
from support.chromium import NewPage

SEEN = datetime(2026, 11, 27, 12, tzinfo=UTC)
STARTS_S = {"snapshot": (24.1, 26.9), "restore": (1.4, 1.6, 2.1), "recovered": (7.2,), "plain": (11.4,)}


def report() -> ProofReport:
    starts = ProofRow(
        name="starts",
        verdict=Verdict.HOLDS,
        detail="7 starts",
        table=(("kind", "starts", "p50"), ("restore", "3", "1.6 s")),
        starts_s=STARTS_S,
        checked_at=SEEN,
    )
    others = [
        ProofRow(name=verdict.name.lower(), verdict=verdict, detail="seen", checked_at=SEEN)
        for verdict in (Verdict.FALLS_SHORT, Verdict.NOT_CHECKED)
    ]
    return ProofReport(
        version="1", recipe="demo", device="L4", prompts=("a fox in the snow",), rows=(starts, *others)
    )


@pytest.mark.parametrize("width", [1000, 360])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_has_no_violation_and_never_scrolls_sideways(
    new_page: NewPage, tmp_path: Path, artifacts: Path, scheme: str, width: int
) -> None:
    file = tmp_path / "report.html"
    file.write_text(render_page(report(), tmp_path), encoding="utf-8")
    page = new_page("file://", color_scheme=scheme, viewport={"width": width, "height": 900})
    page.goto(file.as_uri())
    page.screenshot(path=artifacts / f"prove-{scheme}-{width}.png", full_page=True)

    assert page.get_by_role("img", name="Histogram of 7 starts by seconds").is_visible()
    assert page.get_by_role("region", name="Starts by seconds").get_by_role("row").count() == 7, (
        "six bars and a heading"
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page_is = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert page_is == {"light": "rgb(243, 245, 250)", "dark": "rgb(16, 19, 31)"}[scheme]
    assert_accessible(page)
