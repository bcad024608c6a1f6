"""The pages of a deployment that offers 480p and 1080p: each size has its own estimate, seconds and frame."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import playwright.sync_api as playwright
import pytest

from anime_studio.core.recipes import TINY_RANDOM
from common.schemas import Resolution
from support.accessibility import assert_accessible
from support.chromium import NewPage
from support.ports import free_port
from support.server_rig import ServerRig


@pytest.fixture
def rig(tmp_path: Path) -> ServerRig:
    return ServerRig(tmp_path, recipe=TINY_RANDOM.with_upscaler())


@pytest.fixture
def http(rig: ServerRig) -> Iterator[httpx.Client]:
    """A studio that has drawn two clips of 480p in 0.43 s each, and one of 1080p in 9.997 s."""
    with rig.serve() as client, rig.worker_store() as worker_store:
        for resolution, decode_s in (("480p", 0.1), ("480p", 0.1), ("1080p", 9.667)):
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
    playwright.expect(large.locator("tr", has_text="Developing")).to_contain_text("9.67 s")
    assert_accessible(page)
    page.screenshot(path=artifacts / "status-two-sizes.png", full_page=True)


def test_the_estimate_is_that_of_the_size_that_is_chosen(http: httpx.Client, new_page: NewPage) -> None:
    page = new_page(str(http.base_url))
    page.goto("/")
    estimate = page.locator("#estimate")
    playwright.expect(estimate).to_contain_text("about 1 s")
    page.click("summary")
    page.click("label[for=size-1080p]")
    playwright.expect(estimate).to_contain_text("about 10 s,")


@pytest.mark.parametrize("width", [360, 1000])
def test_the_choice_of_four_sizes_has_each_on_one_line(
    http: httpx.Client, new_page: NewPage, artifacts: Path, width: int
) -> None:
    for scheme in ("light", "dark"):
        page = new_page(str(http.base_url), viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.goto("/")
        page.click("summary")
        page.click("label[for=size-1080p]")
        labels = page.locator(".segment label")
        playwright.expect(labels).to_have_count(4)
        boxes = [label.bounding_box() for label in labels.all()]
        assert len({round(box["height"]) for box in boxes}) == 1
        assert max(box["x"] + box["width"] for box in boxes) <= width
        assert_accessible(page)
        page.screenshot(path=artifacts / f"studio-sizes-{width}-{scheme}.png", full_page=True)


@pytest.mark.parametrize("resolution", list(Resolution))
def test_the_frame_has_the_shape_of_its_clip(
    rig: ServerRig, new_page: NewPage, resolution: Resolution
) -> None:
    """No bars beside it: 1920x1080 is wider than 832x480."""
    with rig.serve() as http:
        page = new_page(str(http.base_url))
        page.goto("/")
        page.fill("#prompt", "a cat")
        page.click("summary")
        page.click(f"label[for=size-{resolution}]")
        page.click("#submit")
        rig.render_next()
        page.wait_for_selector("#frame[data-view=clip]")
        frame = page.locator("#frame video").bounding_box()
        width, height = resolution.size
        assert page.evaluate("getComputedStyle(document.querySelector('#frame video')).objectFit") == "cover"
        assert frame["width"] / frame["height"] == pytest.approx(width / height, abs=0.01)


class TestAnotherDeployment:
    """A page stays open while the studio becomes one without an upscaler."""

    @pytest.fixture
    def page(self, rig: ServerRig, new_page: NewPage) -> Iterator[playwright.Page]:
        """A page that chose 1080p, and whose studio offers 480p alone."""
        port = free_port()
        with rig.serve(port) as http:
            page = new_page(str(http.base_url))
            page.goto("/")
            page.click("summary")
            page.click("label[for=size-1080p]")
            playwright.expect(page.locator("#light")).to_have_attribute("data-status", "ready")
        rig.recipe = TINY_RANDOM
        with rig.serve(port):
            yield page

    def test_the_form_and_the_light_follow(self, page: playwright.Page) -> None:
        page.evaluate("dispatchEvent(new Event('online'))")  # else the readiness is read 15 s later
        playwright.expect(page.locator(".segment label")).to_have_count(2)
        assert page.is_checked("#size-480p")
        playwright.expect(page.locator("#light")).to_have_attribute("data-status", "ready")

    def test_a_refused_request_can_be_sent_again(self, rig: ServerRig, page: playwright.Page) -> None:
        page.fill("#prompt", "a cat")
        page.click("#submit")
        playwright.expect(page.locator("#form-problem")).to_contain_text("without an upscaler")
        playwright.expect(page.locator(".segment label")).to_have_count(2)
        page.click("#submit")
        page.wait_for_selector("#frame[data-view=rendering]")
        assert rig.render_next().spec.resolution is Resolution.P480
