"""The studio page in a real browser against the whole studio: its own server, worker and model."""

import hashlib
import re
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import playwright.sync_api as playwright
import pytest

from support.chromium import NewPage
from support.local_server import LocalServer
from support.server_rig import ServerRig

WATCH_STAGE = """() => {
  window.seen = [];
  const line = document.getElementById("stage");
  new MutationObserver(() => window.seen.push(line.textContent)).observe(line, { childList: true });
}"""
CLIP = "#frame[data-view=clip]"
SEED = "#recipe dt:text-is('Seed') + dd"
PAUSED_AT_END = "() => video.ended"


def submit(page, *, prompt: str = "a cat on a roof", duration: float = 1, steps: int = 3) -> None:
    page.wait_for_selector(".chip")
    page.fill("#prompt", prompt)
    page.eval_on_selector("#duration", "(field, value) => { field.value = value; }", str(duration))
    page.eval_on_selector("#steps", "(field, value) => { field.value = value; }", str(steps))
    page.press("#prompt", "Control+Enter")


def clip_id_of(link: str) -> str:
    return re.search(r"c_[0-9a-f]{32}", link)[0]


def play_from_start(page) -> None:
    page.evaluate("() => { video.loop = false; video.currentTime = 0; return video.play(); }")


def test_a_prompt_becomes_a_clip_step_by_step_and_plays_to_its_end(
    server: LocalServer, new_page: NewPage, artifacts: Path
) -> None:
    page = new_page(str(server.http.base_url))
    ranges = []
    page.on("response", lambda answer: ranges.append(answer.status) if "/outputs/" in answer.url else None)
    page.goto("/")
    page.wait_for_selector("#light[data-status=ready]")
    page.screenshot(path=artifacts / "studio-empty.png")
    page.evaluate(WATCH_STAGE)
    submit(page, duration=2, steps=60)
    page.wait_for_selector(CLIP)
    steps = [
        int(found[1])
        for text in page.evaluate("seen")
        if (found := re.match(r"Drawing, step (\d+) of 60", text))
    ]
    assert len(set(steps)) >= 3
    assert steps == sorted(steps)

    page.wait_for_function("() => video.currentTime > 0.3")  # it began by itself, muted
    play_from_start(page)
    page.wait_for_function(PAUSED_AT_END)
    assert page.evaluate("video.duration") == pytest.approx(33 / 16, abs=0.07)
    assert 206 in ranges
    page.screenshot(path=artifacts / "studio-clip.png", full_page=True)


def test_a_seek_lands_where_it_was_sent(server: LocalServer, new_page: NewPage) -> None:
    page = new_page(str(server.http.base_url))
    page.goto("/")
    submit(page, duration=5)
    page.wait_for_selector(CLIP)
    page.wait_for_function("() => video.readyState >= 2")
    landed = page.evaluate(
        """() => new Promise((resolve) => {
          video.pause();
          video.addEventListener("seeked", () => resolve(video.currentTime), { once: true });
          video.currentTime = 4;
        })"""
    )
    assert landed == pytest.approx(4, abs=0.1)


def test_recipe_and_receipt_show_the_request_and_its_seconds(server: LocalServer, new_page: NewPage) -> None:
    page = new_page(str(server.http.base_url))
    page.goto("/")
    page.click("summary")
    page.fill("#seed", "0")
    submit(page, prompt="a fox in the snow")
    page.wait_for_selector(CLIP)
    recipe, receipt = page.inner_text("#recipe"), page.inner_text("#receipt")
    assert "a fox in the snow" in recipe
    assert re.search(r"Seed\s+0\b", recipe)
    assert "tiny-random @ random-0" in recipe
    assert re.search(r"In all\s+\d", receipt)
    assert "nobody bills" in page.inner_text("#basis")


def test_a_clip_of_the_history_opens_its_watch_page(rig: ServerRig, new_page: NewPage) -> None:
    with rig.serve() as http, rig.worker():
        page = new_page(str(http.base_url))
        page.goto("/")
        for prompt in ("a fox in the snow", "a cat on a roof"):
            submit(page, prompt=prompt)
            page.wait_for_selector(f".history-item[data-state=succeeded]:has-text('{prompt}')")
        page.click(".history-item:has-text('a fox')")
        playwright.expect(page.locator("#recipe")).to_contain_text("a fox in the snow")
        with page.expect_popup() as opened:
            page.click("#watch")
        playwright.expect(opened.value.locator("h1")).to_have_text("a fox in the snow")
        assert opened.value.evaluate("window.opener") is None


def test_link_download_and_another_seed(server: LocalServer, new_page: NewPage) -> None:
    page = new_page(str(server.http.base_url), permissions=["clipboard-read", "clipboard-write"])
    page.goto("/")
    submit(page)
    page.wait_for_selector(CLIP)
    page.click("#copy")
    page.wait_for_function("() => document.getElementById('link-note').textContent.startsWith('Link copied')")
    link = page.evaluate("navigator.clipboard.readText()")
    assert "/watch/c_" in link
    clip = httpx.get(link.replace("?", "/video?"), follow_redirects=True)
    assert (clip.status_code, clip.headers["content-type"]) == (200, "video/mp4")

    with page.expect_download() as download:
        page.click("#download")
    assert (
        hashlib.sha256(download.value.path().read_bytes()).digest() == hashlib.sha256(clip.content).digest()
    )
    assert re.fullmatch(r"c_[0-9a-f]{32}\.mp4", download.value.suggested_filename)

    seed_before = page.inner_text(SEED)
    page.click("#again")
    playwright.expect(page.locator(SEED)).not_to_have_text(seed_before)
    page.wait_for_selector(CLIP)
    assert page.locator(".history-item").count() == 2
    page.wait_for_function("() => video.currentTime > 0.2")
    assert clip_id_of(page.evaluate("video.currentSrc")) != clip_id_of(link)


def test_a_running_job_is_cancelled(server: LocalServer, new_page: NewPage) -> None:
    page = new_page(str(server.http.base_url))
    page.goto("/")
    server.stop_worker_at("denoise")
    submit(page)
    server.waiting_worker()
    with page.expect_response(lambda answer: answer.request.method == "DELETE") as cancelled:
        page.click("#cancel")
    assert cancelled.value.status == 202
    server.let_workers_pass()
    playwright.expect(page.locator("#stage")).to_have_text("Stopped, as you asked")
    assert page.is_hidden("#job-problem")  # one's own cancel is no error
    assert page.is_hidden("#cancel")


def test_a_reload_in_mid_job_goes_on_with_it(server: LocalServer, new_page: NewPage) -> None:
    page = new_page(str(server.http.base_url))
    page.goto("/")
    server.stop_worker_at("denoise")
    submit(page)
    server.waiting_worker()
    page.reload()
    page.wait_for_selector("#frame[data-view=rendering]")
    server.let_workers_pass()
    page.wait_for_selector(CLIP)
    assert page.locator(".history-item").count() == 1


def test_the_page_survives_a_restart_of_its_server(server: LocalServer, new_page: NewPage) -> None:
    page = new_page(str(server.http.base_url))
    page.goto("/")
    server.stop_worker_at("denoise")
    submit(page)
    server.waiting_worker()
    server.stop(signal.SIGKILL)
    page.wait_for_selector("#connection:not([hidden])")
    server.let_workers_pass()
    server.start()
    page.wait_for_selector(CLIP)
    assert page.is_hidden("#connection")
    play_from_start(page)
    page.wait_for_function(PAUSED_AT_END)


def test_a_link_that_died_is_renewed_where_the_clip_was(rig: ServerRig, new_page: NewPage) -> None:
    with rig.serve() as http, rig.worker():
        page = new_page(str(http.base_url))
        page.goto("/")
        submit(page)
        page.wait_for_selector(CLIP)
        page.wait_for_function("() => video.readyState >= 2")
        old = page.evaluate("video.currentSrc")
        rig.clock.ahead = timedelta(hours=1)
        assert http.get(old).json()["code"] == "url_expired"
        page.evaluate(
            "() => { video.pause(); video.loop = false; video.currentTime = 0.5; video.src = video.currentSrc + '&'; }"
        )
        page.wait_for_function(
            "old => video.readyState >= 2 && video.currentSrc !== old && !video.error", arg=old
        )
        renewed = page.evaluate("video.currentSrc")
        assert http.get(renewed).status_code == 200
        play_from_start(page)
        page.wait_for_function(PAUSED_AT_END)


def test_past_clips_open_with_fresh_links(rig: ServerRig, new_page: NewPage) -> None:
    with rig.serve() as http, rig.worker():
        page = new_page(str(http.base_url))
        page.goto("/")
        for prompt in ("first", "second"):
            submit(page, prompt=prompt)
            page.wait_for_selector(f".history-item:has-text('{prompt}')[data-state=succeeded] img")
        rig.clock.ahead = timedelta(hours=2)
        page.click(".history-item:has-text('first')")
        page.wait_for_selector(".history-item[aria-current=true]:has-text('first')")
        page.wait_for_function("() => video.readyState >= 2")
        assert page.evaluate("document.activeElement.id") == "result-title"
        expires = int(page.evaluate("new URL(video.currentSrc).searchParams.get('expires')"))
        assert datetime.fromtimestamp(expires, UTC) > rig.clock.now()
        page.click("#clear-history")
        assert page.is_hidden("#history")


def test_a_swept_clip_is_explained(rig: ServerRig, new_page: NewPage) -> None:
    with rig.serve() as http, rig.worker():
        page = new_page(str(http.base_url))
        page.goto("/")
        submit(page)
        page.wait_for_selector(".history-item[data-state=succeeded]")
        for file in (rig.folder / "clips").iterdir():
            file.unlink()
        page.reload()
        page.wait_for_selector("#job-problem[data-code=clip_gone]")
        assert page.inner_text("#stage") == "This clip is gone"
        assert "the same seed" in page.inner_text("#job-problem")


def test_a_file_that_no_browser_can_play_is_explained(rig: ServerRig, new_page: NewPage) -> None:
    with rig.serve() as http, rig.worker():
        page = new_page(str(http.base_url))
        page.route("**/outputs/**", lambda route: route.fulfill(body="not a film", content_type="video/mp4"))
        page.goto("/")
        submit(page)
        page.wait_for_selector("#job-problem[data-code=clip_unplayable]")


def test_errors_show_their_code_and_what_to_do(rig: ServerRig, new_page: NewPage) -> None:
    with rig.serve() as http:
        page = new_page(str(http.base_url))
        page.goto("/")
        submit(page, prompt="a picture that comes out black")
        rig.fail_next()
        page.wait_for_selector("#job-problem[data-code=frames_invalid]")
        assert "Another seed nearly always helps" in page.inner_text("#job-problem")
        assert re.search(r"request r_[0-9a-f]+", page.inner_text("#job-problem"))

        for _ in range(rig.policy.max_queued_jobs):
            http.post("/generate", json={"prompt": "a cat"}, headers={"Prefer": "respond-async"})
        submit(page, prompt="one too many")
        page.wait_for_selector("#form-problem[data-code=queue_full]")
        assert page.input_value("#prompt") == "one too many"

        page.fill("#prompt", " ")
        page.click("#submit")
        page.wait_for_selector("#form-problem[data-code=invalid_request]")
        assert page.evaluate("document.activeElement.id") == "prompt"
        assert page.get_attribute("#prompt", "aria-invalid") == "true"


def test_the_keyboard_alone_is_enough_and_the_stage_is_announced(rig: ServerRig, new_page: NewPage) -> None:
    with rig.serve() as http:
        page = new_page(str(http.base_url))
        page.goto("/")
        page.wait_for_selector(".chip")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "submit"
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")  # the first example
        assert page.evaluate("document.activeElement.id") == "prompt"
        page.keyboard.press("Control+Enter")
        page.wait_for_function("() => announcer.textContent === 'Next in line'")
        assert page.get_attribute("#announcer", "role") == "status"
        with rig.worker_store() as worker_store:
            job = rig.step(worker_store, rig.claim(worker_store), 1)
            page.wait_for_function("() => announcer.textContent === 'Drawing'")
            assert page.get_attribute("#progress", "aria-valuetext") == "Drawing, step 2 of 3, 33 percent"
            rig.finish(worker_store, job)
        page.wait_for_function("() => announcer.textContent === 'Your clip is ready'")


def test_a_lost_answer_is_asked_for_again_and_makes_one_job(rig: ServerRig, new_page: NewPage) -> None:
    with rig.serve() as http, rig.worker():
        page = new_page(str(http.base_url))
        page.goto("/")
        lost = []

        def lose_the_first(route) -> None:
            if lost:
                route.continue_()
            else:
                lost.append(route.fetch())  # the server did its part; the answer never arrives
                route.abort()

        page.route("**/generate", lose_the_first)
        submit(page)
        page.wait_for_selector(CLIP)
        assert page.locator(".history-item").count() == 1
        assert http.get("/status").json()["finished"] == 1
