"""The operator on the status page: sees whose prompt is drawn, and acts; with a key and without one."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import playwright.sync_api as playwright
import pytest

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
