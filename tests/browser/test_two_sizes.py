"""The pages of a deployment that offers 480p and 1080p: each size has its own estimate, seconds and frame."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import playwright.sync_api as playwright
import pytest

from anime_studio.core.recipes import TINY_RANDOM
from support.accessibility import assert_accessible
from support.chromium import NewPage
from support.server_rig import ServerRig


@pytest.fixture
def rig(tmp_path: Path) -> ServerRig:
    return ServerRig(tmp_path, recipe=TINY_RANDOM.with_upscaler())


@pytest.fixture
def http(rig: ServerRig) -> Iterator[httpx.Client]:
    """A studio that has drawn two clips of 480p in 0.43 s each, and one of 1080p in 20.33 s."""
    with rig.serve() as client, rig.worker_store() as worker_store:
        for resolution, decode_s in (("480p", 0.1), ("480p", 0.1), ("1080p", 20.0)):
            body = {"prompt": "a cat", "duration": 1, "resolution": resolution}
            client.post("/generate", json=body, headers={"Prefer": "respond-async"})
            rig.finish(worker_store, rig.claim(worker_store), decode_s=decode_s)
        yield client


def test_the_status_page_tells_the_seconds_of_each_size_apart(
    http: httpx.Client, new_page: NewPage, artifacts: Path
) -> None:
    page = new_page(str(http.base_url))
    page.goto("/status")
    page.wait_for_selector("#main:not([data-loading])")
    playwright.expect(page.locator("#stages th[scope=rowgroup]")).to_have_text(["480p", "1080p"])
    large = page.locator("#stages tbody", has_text="1080p")
    playwright.expect(large.locator("tr", has_text="Developing")).to_contain_text("20")
    assert_accessible(page)
    page.screenshot(path=artifacts / "status-two-sizes.png", full_page=True)


def test_the_estimate_is_that_of_the_size_that_is_chosen(http: httpx.Client, new_page: NewPage) -> None:
    page = new_page(str(http.base_url))
    page.goto("/")
    estimate = page.locator("#estimate")
    playwright.expect(estimate).to_contain_text("about 1 s")
    page.click("summary")
    page.click("label[for=size-1080p]")
    playwright.expect(estimate).to_contain_text("about 20 s")
