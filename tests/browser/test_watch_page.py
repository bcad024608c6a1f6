"""The watch page in a real browser, with JavaScript and without: the clip plays, the words are text, all is accessible."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.accessibility import assert_accessible
from support.chromium import PATIENCE_MS, NewPage
from support.server_rig import ServerRig, until

SIZES = [{"width": width, "height": 740} for width in (320, 360, 768, 1360, 1920)]
WORDS = (
    '</h1><script>document.title = "broken"</script> & \u202eabc ' + "a very long prompt of a stranger " * 40
)


def watch_url(rig: ServerRig, http: httpx.Client, **changes: object) -> str:
    body = {"prompt": "a cat on a roof", "requested_by": "mio"} | changes
    job = http.post("/generate", json=body, headers={"Prefer": "respond-async"}).json()
    rig.render_next()
    return str(http.get(f"/jobs/{job['job_id']}").json()["clip"]["watch_url"])


@pytest.mark.parametrize("javascript", [True, False])
def test_the_clip_plays_with_and_without_javascript(
    rig: ServerRig, new_page: NewPage, javascript: bool
) -> None:
    with rig.serve() as http:
        page = new_page(str(http.base_url), java_script_enabled=javascript)
        page.goto(watch_url(rig, http))
        rig.clock.ahead += timedelta(hours=1)  # longer than any media link lives
        page.locator("video").focus()
        page.keyboard.press("Space")

        # Not `wait_for_function`, which needs the page's own JavaScript.
        until(lambda: page.evaluate("document.querySelector('video').readyState >= 3"))
        until(lambda: page.evaluate("document.querySelector('video').currentTime > 0"))
        assert page.evaluate("document.querySelector('video').error") is None
        with page.expect_download() as download:
            page.click("text=Download")
        assert download.value.path().stat().st_size > 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_it_is_accessible_and_fits(
    rig: ServerRig, new_page: NewPage, artifacts: Path, scheme: str, size: dict[str, int]
) -> None:
    with rig.serve() as http:
        page = new_page(str(http.base_url), color_scheme=scheme, viewport=size)
        for name, changes in {
            "short": {},
            "long": {"prompt": WORDS, "requested_by": "\u05de\u05d9\u05d5"},
            "portrait": {"resolution": "480p-portrait"},
        }.items():
            page.goto(watch_url(rig, http, **changes), wait_until="networkidle")
            page.screenshot(path=artifacts / f"watch-{name}-{size['width']}-{scheme}.png", full_page=True)
            assert page.evaluate("document.documentElement.scrollWidth") == size["width"]
            assert page.title().endswith("anime-studio")
            assert_accessible(page)


def test_another_site_can_frame_it_at_the_clips_size_and_the_player_fills_the_frame(
    rig: ServerRig, browser: Any
) -> None:
    with rig.serve() as http:
        html = f'<!doctype html><iframe width="832" height="480" src="{watch_url(rig, http)}"></iframe>'
        with another_site(html) as address:
            page = browser.new_page()
            page.goto(address)
            video = page.frame_locator("iframe").locator("video")
            video.wait_for(timeout=PATIENCE_MS)
            box, outer = video.bounding_box(), page.locator("iframe").bounding_box()
            page.close()

    frame_border = 2
    assert box["y"] - outer["y"] == box["x"] - outer["x"] == frame_border
    assert box["width"] >= 0.97 * 832, "all but a scroll bar"
    assert box["height"] >= 0.97 * 480


@contextmanager
def another_site(html: str) -> Iterator[str]:
    """Serve *html* at another origin. (`frame-ancestors *` means any site, not any `about:` or `data:` page.)"""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(html.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 360, 768, 1360, 1920])
def test_a_clip_that_is_not_shown_is_a_page_of_words_and_then_the_clip(
    rig: ServerRig, new_page: NewPage, artifacts: Path, width: int, scheme: str
) -> None:
    with rig.serve() as http:
        link = watch_url(rig, http, channel="show-0123456789abcdef", hold=True)
        clip_id = link.split("/watch/")[1].split("?")[0]
        page = new_page(
            str(http.base_url),
            color_scheme=scheme,
            viewport={"width": width, "height": 740},
            java_script_enabled=False,
        )
        assert page.goto(link).status == 403
        assert page.inner_text("h1") == "This clip is not shown now"
        page.screenshot(path=artifacts / f"not-shown-{width}-{scheme}.png")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        http.post("/operator", json={"action": "show", "clip_id": clip_id}).raise_for_status()
        assert page.reload().status == 200
        assert page.locator("video").count() == 1


def test_in_a_browser_a_link_that_ended_is_a_page_of_words(rig: ServerRig, new_page: NewPage) -> None:
    with rig.serve() as http:
        link = watch_url(rig, http)
        rig.clock.ahead += timedelta(days=2)
        page = new_page(str(http.base_url))
        for address in (link, link.replace("?", "/video?")):
            answer = page.goto(address)
            assert answer.status == 403
            assert page.inner_text("h1") == "This link has expired"
            assert_accessible(page)
            page.click("text=Open the studio")
            page.wait_for_selector("#prompt")
