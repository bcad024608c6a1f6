"""The operator on the status page: sees whose prompt is drawn, and acts; with a key and without one."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import playwright.sync_api as playwright
import pytest

from anime_studio.core.notes import weights_refused
from common.schemas import JobState
from support.accessibility import assert_accessible
from support.chromium import NewPage
from support.server_rig import ServerRig, until

CHANNEL = "show-0123456789abcdef"
KEY = "operator-" + "k" * 32


@pytest.fixture
def http(rig: ServerRig) -> Iterator[httpx.Client]:
    with rig.serve() as client:
        yield client


def ask(http: httpx.Client, **fields: object) -> str:
    body = {"prompt": "a cat", "duration": 1, "channel": CHANNEL} | fields
    return str(http.post("/generate", json=body, headers={"Prefer": "respond-async"}).json()["job_id"])


def open_status(new_page: NewPage, http: httpx.Client) -> Any:
    page = new_page(str(http.base_url))
    page.goto("/status")
    page.wait_for_selector("#main:not([data-loading])")
    return page


def test_the_operator_sees_each_prompt_and_cancels_hides_pauses_and_clears(
    rig: ServerRig, http: httpx.Client, new_page: NewPage, artifacts: Path
) -> None:
    ask(http, prompt="a fox", requested_by="yui")
    clip_id = rig.render_next().clip_id
    troll = ask(http, prompt="<img src=x onerror=alert(1)> \u202edrawn", requested_by="<b>troll")
    ids = [ask(http, prompt=f"cat {number}", requested_by="mio") for number in range(2)]
    http.get(f"/channels/{CHANNEL}/clips")
    with rig.worker_store() as worker_store:
        rig.step(worker_store, rig.claim(worker_store), 1)
        page = open_status(new_page, http)
        playwright.expect(page.locator("#jobs")).to_contain_text("<b>troll")
        playwright.expect(page.locator("#jobs")).to_contain_text("<img src=x")
        playwright.expect(page.locator("#channels")).to_contain_text(f"{CHANNEL}: 1 viewer")
        assert_accessible(page)
        page.screenshot(path=artifacts / "status-operator.png", full_page=True)
        page.click("#jobs tr[data-state=running] button:text-is('Cancel')")
        until(lambda: worker_store.cancel_requested(troll))
    page.click("#jobs tr[data-state=queued] button:text-is('All of this viewer')")
    until(lambda: all(rig.record(job_id).state is JobState.CANCELLED for job_id in ids))
    page.click("#jobs button:text-is('Hide')")
    until(lambda: http.get(f"/channels/{CHANNEL}/clips").json()["hidden"] == [clip_id])
    page.click("#jobs button:text-is('Show')")
    until(lambda: http.get(f"/channels/{CHANNEL}/clips").json()["hidden"] == [])
    waiting = ask(http, prompt="waits")
    page.click("#pause")
    page.wait_for_selector("#paused:not([hidden])")
    assert http.get("/ready").json()["code"] == "orders_paused"
    page.click("#clear")
    page.click("#clear")
    until(lambda: rig.record(waiting).state is JobState.CANCELLED)
    page.click("#pause")
    page.wait_for_selector("#paused", state="hidden")
    assert http.get("/ready").status_code == 200


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_budgets_have_bars_that_warn_in_words_at_80_percent(
    rig: ServerRig, http: httpx.Client, new_page: NewPage, artifacts: Path, scheme: str
) -> None:
    ask(http)
    cost = rig.render_next().cost
    assert cost is not None
    page = new_page(str(http.base_url), color_scheme=scheme)
    for day_share, warning in ((0.79, ""), (0.81, ": nearly spent"), (1.25, ": spent")):
        rig.studio.policy = replace(
            rig.studio.policy, budget_usd_per_day=cost.usd / day_share, budget_usd_per_month=cost.usd * 2
        )
        page.goto("/status")
        page.wait_for_selector("#main:not([data-loading])")
        today, month = (page.locator(".tile", has_text=name) for name in ("Today", "This month"))
        playwright.expect(today.locator(".note")).to_have_text(re.compile(rf"a day{warning}$"))
        assert today.get_attribute("data-alarm") == str(bool(warning)).lower()
        assert filled(today) == pytest.approx(min(1, day_share), abs=0.01)
        assert filled(month) == pytest.approx(0.5, abs=0.01)
        assert month.get_attribute("data-alarm") == "false"
        assert_accessible(page)
        page.screenshot(path=artifacts / f"status-budget-{day_share}-{scheme}.png", full_page=True)


def filled(tile: Any) -> float:
    """Return how much of the tile's bar is filled, as it is painted."""
    bar = tile.locator(".bar")
    whole, part = bar.bounding_box(), bar.locator("span").bounding_box()
    return float(part["width"] / whole["width"])


def test_what_is_to_know_of_the_weights_is_on_the_page_and_gone_with_the_next_clip(
    rig: ServerRig, http: httpx.Client, new_page: NewPage
) -> None:
    note = weights_refused("<b>no file model.safetensors</b>", "0fad780a534b")
    ask(http)
    rig.render_next(note)
    page = open_status(new_page, http)
    playwright.expect(page.locator("#weights")).to_contain_text(
        "cannot be used: <b>no file model.safetensors</b>"
    )
    assert_accessible(page)
    ask(http)
    rig.render_next()
    page.reload()
    page.wait_for_selector("#main:not([data-loading])")
    playwright.expect(page.locator("#weights")).to_be_hidden()


def test_with_a_key_in_the_settings_the_page_asks_for_it_and_keeps_it_for_the_tab(
    rig: ServerRig, http: httpx.Client, browser: playwright.Browser
) -> None:
    rig.studio.policy = replace(rig.studio.policy, operator_key=KEY)
    ask(http, prompt="a secret wish")
    page = browser.new_page(base_url=str(http.base_url))  # a 401 is written to the console
    page.goto("/status")
    page.wait_for_selector("#operator-form:not([hidden])")
    assert "secret wish" not in page.content()
    assert_accessible(page)
    for key, words in (("wrong", "not the operator"), (KEY, "")):
        page.fill("#operator-key", key)
        page.click("#operator-form button")
        if words:
            playwright.expect(page.locator("#operator-refused")).to_contain_text(words)
    playwright.expect(page.locator("#jobs")).to_contain_text("a secret wish")
    assert KEY not in page.content()
    assert KEY not in page.url
    page.reload()
    playwright.expect(page.locator("#jobs")).to_contain_text("a secret wish")
    page.close()
