"""The studio page before and after a clip, at every width, in light and dark: what a person sees without asking."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import playwright.sync_api as playwright
import pytest

from anime_studio.core.pricing import UNBILLED
from anime_studio.core.recipes import DEMO
from common.schemas import Readiness
from support.accessibility import assert_accessible
from support.chromium import NewPage
from support.server_rig import ServerRig

SIZES = [(320, 640), (360, 740), (768, 900), (1360, 800), (1920, 1080)]
WATCH_SHIFTS = """window.shifts = [];
new PerformanceObserver((list) => {
  for (const { value, hadRecentInput, sources } of list.getEntries()) {
    const moved = sources.map(({ node, previousRect, currentRect }) => [node?.id ?? node?.nodeName, previousRect, currentRect]);
    if (!hadRecentInput) window.shifts.push({ value, moved });
  }
}).observe({ type: "layout-shift", buffered: true });"""
MOST_SHIFT = 0.05
HARD_PROMPT = "z" + "\u0301\u0316" * 300 + "w" * 700 + " <b>bold</b> " + "猫" * 200


@pytest.fixture
def toy(tmp_path: Path) -> ServerRig:
    return ServerRig(tmp_path, recipe=DEMO)


@pytest.fixture
def http(toy: ServerRig) -> Iterator[httpx.Client]:
    with toy.serve() as client:
        yield client


def draw(page: Any, prompt: str) -> None:
    page.fill("#prompt", prompt)
    page.press("#prompt", "Control+Enter")


def assert_steady(page: Any) -> None:
    shifts = page.evaluate("JSON.parse(JSON.stringify(window.shifts))")
    assert sum(shift["value"] for shift in shifts) < MOST_SHIFT, shifts


def ready(page: Any) -> None:
    page.goto("/")
    page.wait_for_selector("#main:not([data-loading])")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_first_visit_and_a_hard_prompt_fit_every_screen(
    toy: ServerRig,
    http: httpx.Client,
    new_page: NewPage,
    artifacts: Path,
    size: tuple[int, int],
    scheme: str,
) -> None:
    width, height = size
    page = new_page(str(http.base_url), viewport={"width": width, "height": height}, color_scheme=scheme)
    page.add_init_script(WATCH_SHIFTS)
    ready(page)
    page.wait_for_selector("#light[data-status=ready]")
    page.wait_for_function("() => [...document.images].every((image) => image.complete)")
    button = page.locator("#submit").bounding_box()
    assert button["y"] + button["height"] <= height
    assert_steady(page)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.screenshot(path=artifacts / f"first-{width}-{scheme}.png")
    assert_accessible(page)

    draw(page, HARD_PROMPT)
    with toy.worker_store() as worker_store:
        job = toy.step(worker_store, toy.claim(worker_store), 1)
        page.wait_for_selector(".progress-cell.current[data-kind=step]")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        toy.finish(worker_store, job)
    page.wait_for_selector("#frame[data-view=clip]")
    page.wait_for_selector(".history-item img")
    page.click("summary")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert_accessible(page)
    small = page.evaluate(
        """() => [...document.querySelectorAll("button, a.button, input:not([type=radio]), summary")]
          .filter((node) => node.checkVisibility() && node.getBoundingClientRect().height < 36).map((node) => node.outerHTML)"""
    )
    assert small == []
    page.screenshot(path=artifacts / f"clip-{width}-{scheme}.png", full_page=True)
    page.reload()  # with a clip to show
    page.wait_for_selector("#main:not([data-loading])")
    page.wait_for_selector(".history-item img")
    assert_steady(page)

    page.click("#again")
    toy.fail_next()
    page.wait_for_selector("#job-problem:not([hidden])")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert_accessible(page)


def test_the_status_page_does_not_jump(http: httpx.Client, new_page: NewPage) -> None:
    page = new_page(str(http.base_url))
    page.add_init_script(WATCH_SHIFTS)
    page.goto("/status")
    page.wait_for_selector(".tile")
    assert_steady(page)


def test_a_sample_plays_and_makes_room_for_the_sketch_and_the_clip(
    toy: ServerRig, http: httpx.Client, new_page: NewPage
) -> None:
    page = new_page(str(http.base_url))
    ready(page)
    page.wait_for_function("() => video.currentTime > 0.3")
    assert page.evaluate("video.duration") == pytest.approx(81 / 16, abs=0.1)
    playwright.expect(page.locator("#sample-note")).to_contain_text("the small demo checkpoint")
    page.click(".chip >> nth=3")
    assert page.input_value("#prompt") == "an orange cat running through a flower meadow"
    page.press("#prompt", "Control+Enter")
    page.wait_for_selector("#frame[data-view=rendering]")
    assert page.is_visible("#sketch")
    assert page.is_hidden("#video")
    assert page.is_hidden("#sample-note")
    toy.render_next()
    page.wait_for_selector("#frame[data-view=clip]")
    page.wait_for_function("() => video.src.includes('/outputs/') && video.currentTime > 0")


def test_choices_with_one_value_are_no_choices(rig: ServerRig, http: httpx.Client, new_page: NewPage) -> None:
    page = new_page(str(http.base_url))
    ready(page)
    page.click("summary")
    assert [page.is_visible(f"#{name}") for name in ("size-field", "duration-field", "steps-field")] == [
        False,
        False,
        True,
    ]
    with rig.serve() as other:
        page = new_page(str(other.base_url))
        ready(page)
        page.click("summary")
        assert page.is_visible("#size-field")
        assert page.is_visible("#duration-field")


@pytest.mark.parametrize(
    ("readiness", "words"),
    [
        ({"status": "ready", "detail": "idle"}, "about 1 s, $0.0001"),
        ({"status": "asleep", "detail": "asleep"}, "about 1 s, $0.0001, GPU asleep: 2 s more"),
    ],
)
def test_the_page_says_before_the_press_how_long_and_how_much(
    toy: ServerRig, http: httpx.Client, new_page: NewPage, readiness: dict[str, str], words: str
) -> None:
    http.post("/generate", json={"prompt": "a cat"}, headers={"Prefer": "respond-async"})
    toy.render_next()
    toy.launcher.ready = Readiness(ready=True, **readiness)  # type: ignore[arg-type]
    page = new_page(str(http.base_url))
    ready(page)
    playwright.expect(page.locator("#estimate")).to_have_text(words)


def test_a_laptop_costs_nothing_from_the_first_clip_on(
    toy: ServerRig, http: httpx.Client, new_page: NewPage
) -> None:
    toy.studio.policy = toy.policy = type(toy.policy)(machine=UNBILLED)
    page = new_page(str(http.base_url))
    ready(page)
    playwright.expect(page.locator("#estimate")).to_have_text(
        "the first clip shows how long it takes here, $0"
    )


def test_the_tab_shows_progress_and_ready(toy: ServerRig, http: httpx.Client, new_page: NewPage) -> None:
    page = new_page(str(http.base_url))
    ready(page)
    draw(page, "a cat")
    with toy.worker_store() as worker_store:
        job = toy.step(worker_store, toy.claim(worker_store), 3)
        page.wait_for_function("() => document.title === '50 % · anime-studio'")
        toy.finish(worker_store, job)
    page.wait_for_function("() => document.title === 'Ready · anime-studio'")


def test_a_prompt_is_used_again_copied_as_code_and_its_clip_deleted(
    toy: ServerRig, http: httpx.Client, new_page: NewPage
) -> None:
    page = new_page(str(http.base_url), permissions=["clipboard-read", "clipboard-write"])
    ready(page)
    prompt = 'a cat\'s "moon" & $HOME `x`'
    draw(page, prompt)
    toy.render_next()
    page.wait_for_selector("#frame[data-view=clip]")
    page.reload()
    page.wait_for_selector("#frame[data-view=clip]")
    assert page.input_value("#prompt") == ""
    page.click("#use-prompt")
    assert page.input_value("#prompt") == prompt
    assert page.evaluate("document.activeElement.id") == "prompt"

    for button, run in (("#copy-curl", run_curl), ("#copy-python", run_python)):
        page.evaluate("navigator.clipboard.writeText('')")
        page.click(button)
        page.wait_for_function("() => navigator.clipboard.readText()")
        with toy.worker():
            job = run(page.evaluate("navigator.clipboard.readText()"), toy.folder)
        assert job["prompt"] == prompt
        assert job["seed"] == toy.record(page.get_attribute(".history-item", "data-job-id")).spec.seed

    page.click("#delete")
    playwright.expect(page.locator("#delete")).to_have_text("Delete for good?")
    page.click("#use-prompt")  # one goes elsewhere: it asks again
    playwright.expect(page.locator("#delete")).to_have_text("Delete")
    page.click("#delete")
    page.click("#delete")
    playwright.expect(page.locator("#stage")).to_have_text("This clip is gone")
    assert page.is_hidden("#history")
    assert page.is_hidden("#delete")


def run_curl(command: str, folder: Path) -> dict[str, Any]:
    answer = subprocess.run(["bash", "-c", command], capture_output=True, check=True, cwd=folder).stdout
    return dict(json.loads(answer)["request"])


def run_python(code: str, folder: Path) -> dict[str, Any]:
    code += "print(job.request.model_dump_json())\n"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder)
    assert (folder / "clip.mp4").stat().st_size > 0
    return dict(json.loads(run.stdout))


def test_where_the_browser_forbids_copying_the_text_is_offered(
    toy: ServerRig, http: httpx.Client, new_page: NewPage
) -> None:
    page = new_page(str(http.base_url))
    page.add_init_script(
        "Object.defineProperty(navigator, 'clipboard', { value: undefined })"
    )  # as on http://pi
    ready(page)
    draw(page, "a cat")
    toy.render_next()
    page.wait_for_selector("#frame[data-view=clip]")
    page.click("#copy")
    box = page.locator("#copy-text")
    playwright.expect(box).to_be_focused()
    assert "/watch/c_" in page.evaluate("getSelection().toString()")
    assert httpx.get(box.input_value()).status_code == 200


def test_with_reduced_motion_nothing_plays_by_itself(
    toy: ServerRig, http: httpx.Client, new_page: NewPage
) -> None:
    page = new_page(str(http.base_url), reduced_motion="reduce")
    ready(page)
    draw(page, "a cat")
    toy.render_next()
    page.wait_for_selector("#frame[data-view=clip]")
    page.wait_for_function("() => video.readyState >= 2")
    assert page.evaluate("[video.paused, video.loop, video.currentTime]") == [True, False, 0]


def test_offline_is_shown_at_once_and_so_is_the_return(http: httpx.Client, new_page: NewPage) -> None:
    page = new_page(str(http.base_url))
    ready(page)
    light = page.locator("#light-words")
    playwright.expect(light).to_have_text("Ready · demo")
    page.context.set_offline(True)
    playwright.expect(light).to_have_text("Offline")
    page.context.set_offline(False)
    playwright.expect(light).to_have_text("Ready · demo")
