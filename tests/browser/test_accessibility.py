"""axe-core finds no violation on any page, in each of its states, in light and dark."""

from pathlib import Path

import pytest

from support.accessibility import assert_accessible
from support.chromium import NewPage
from support.command_line import run
from support.server_rig import ServerRig

CHANNEL = "show-0123456789abcdef"

pytestmark = pytest.mark.parametrize("scheme", ["light", "dark"])


def test_the_studio_page_in_each_of_its_states(
    rig: ServerRig, new_page: NewPage, artifacts: Path, scheme: str
) -> None:
    with rig.serve() as http:
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
        with rig.worker_store() as worker_store:
            job = rig.step(worker_store, rig.claim(worker_store), 1)
            page.wait_for_selector(".progress-cell.current[data-kind=step]")
            page.screenshot(path=artifacts / f"studio-drawing-{scheme}.png")
            assert_accessible(page)
            rig.finish(worker_store, job)
        page.wait_for_selector("#frame[data-view=clip]")
        page.wait_for_selector(".history-item img")
        assert_accessible(page)
        page.click("#again")
        rig.fail_next()
        page.wait_for_selector("#job-problem:not([hidden])")
        assert_accessible(page)


def test_the_operators_view(rig: ServerRig, new_page: NewPage, artifacts: Path, scheme: str) -> None:
    with rig.serve() as http:
        page = new_page(str(http.base_url), color_scheme=scheme)
        page.goto("/status")
        page.wait_for_selector(".tile")
        assert_accessible(page)
        for end_next in (rig.render_next, rig.fail_next):
            http.post("/generate", json={"prompt": "a cat"}, headers={"Prefer": "respond-async"})
            end_next()
        page.reload()
        page.wait_for_selector("#errors code")
        assert "frames_invalid" in page.inner_text("#errors")
        assert "50.0 %" in page.inner_text("#tiles")
        page.click("#warm")
        page.wait_for_selector("#warm:not([disabled])")
        assert rig.launcher.warmed == 1
        assert_accessible(page)
        page.screenshot(path=artifacts / f"status-{scheme}.png", full_page=True)
        page.set_viewport_size({"width": 360, "height": 740})
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        assert_accessible(page)


def test_the_overlay(rig: ServerRig, new_page: NewPage, artifacts: Path, scheme: str) -> None:
    with rig.serve() as http:
        page = new_page(str(http.base_url), color_scheme=scheme)
        page.goto("/overlay?channel=show-0123456789abcdef")
        page.wait_for_selector("#fallback.on")
        page.screenshot(path=artifacts / f"overlay-fallback-{scheme}.png")
        assert_accessible(page)
        body = {"prompt": "a cat", "channel": "show-0123456789abcdef", "requested_by": "mia"}
        for _ in range(2):
            http.post("/generate", json=body, headers={"Prefer": "respond-async"})
        rig.render_next()
        page.goto("/overlay?channel=show-0123456789abcdef&caption=who,prompt&loop=1")
        page.wait_for_selector("#replay-mark:not([hidden])")
        page.wait_for_selector("#caption-next:not([hidden])")
        assert_accessible(page)
        page.goto("/overlay")
        page.wait_for_selector("#setup:not([hidden])")
        assert_accessible(page)


def test_the_report(rig: ServerRig, new_page: NewPage, tmp_path: Path, scheme: str) -> None:
    with rig.serve() as http:
        for end_next in (rig.render_next, rig.fail_next):
            http.post(
                "/generate", json={"prompt": "a cat", "channel": CHANNEL}, headers={"Prefer": "respond-async"}
            )
            end_next()
        done = run("report", "--channel", CHANNEL, "--url", str(http.base_url), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        page = new_page(str(http.base_url), color_scheme=scheme, viewport={"width": 360, "height": 740})
        page.set_content((tmp_path / "show.html").read_text(encoding="utf-8"))
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        assert_accessible(page)
