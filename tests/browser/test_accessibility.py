"""axe-core finds no violation on any page, in any state, in light or dark."""

from pathlib import Path
from typing import Any

import pytest

from support.chromium import NewPage
from support.stage import Stage

axe = pytest.importorskip(
    "axe_playwright_python.sync_playwright", reason="pip install -e '.[dev]' brings axe-core"
)

pytestmark = pytest.mark.parametrize("scheme", ["light", "dark"])


def assert_accessible(page: Any) -> None:
    page.wait_for_timeout(300)  # colours in transition have no contrast yet
    results = axe.Axe().run(page)
    assert results.violations_count == 0, results.generate_report()


def test_the_studio_page_in_each_of_its_states(
    stage: Stage, new_page: NewPage, artifacts: Path, scheme: str
) -> None:
    with stage.serve() as http:
        page = new_page(str(http.base_url), color_scheme=scheme)
        page.goto("/")
        page.wait_for_selector("#light[data-status=ready]")
        assert_accessible(page)
        page.click("summary")
        page.click("#new-channel")
        assert_accessible(page)
        page.click("#submit")  # without a prompt
        page.wait_for_selector("#form-problem:not([hidden])")
        assert_accessible(page)
        page.click(".chip")
        page.press("#prompt", "Control+Enter")
        with stage.desk() as desk:
            job = stage.step(desk, stage.claim(desk), 1)
            page.wait_for_selector(".cell.now[data-kind=step]")
            page.screenshot(path=artifacts / f"studio-drawing-{scheme}.png")
            assert_accessible(page)
            stage.finish(desk, job)
        page.wait_for_selector("#frame[data-view=clip]")
        page.wait_for_selector(".cut img")
        assert_accessible(page)
        page.click("#again")
        stage.fail_next()
        page.wait_for_selector("#job-problem:not([hidden])")
        assert_accessible(page)


def test_the_operators_view(stage: Stage, new_page: NewPage, artifacts: Path, scheme: str) -> None:
    with stage.serve() as http:
        page = new_page(str(http.base_url), color_scheme=scheme)
        page.goto("/status")
        page.wait_for_selector(".tile")
        assert_accessible(page)
        for play in (stage.draw_next, stage.fail_next):
            http.post("/generate", json={"prompt": "a cat"}, headers={"Prefer": "respond-async"})
            play()
        page.reload()
        page.wait_for_selector("#errors code")
        assert "frames_invalid" in page.inner_text("#errors")
        assert "50.0 %" in page.inner_text("#tiles")
        page.click("#warm")
        page.wait_for_selector("#warm:not([disabled])")
        assert stage.launcher.warmed == 1
        assert_accessible(page)
        page.screenshot(path=artifacts / f"status-{scheme}.png", full_page=True)
        page.set_viewport_size({"width": 360, "height": 740})
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        assert_accessible(page)


def test_the_overlay(stage: Stage, new_page: NewPage, scheme: str) -> None:
    with stage.serve() as http:
        page = new_page(str(http.base_url), color_scheme=scheme)
        page.goto("/overlay?channel=show-0123456789abcdef")
        page.wait_for_selector("#fallback.on")
        assert_accessible(page)
        page.goto("/overlay")
        page.wait_for_selector("#setup:not([hidden])")
        assert_accessible(page)
