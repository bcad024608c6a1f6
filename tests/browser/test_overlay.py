"""The overlay as OBS shows it: real Chromium, server, store and files; the test acts as the worker."""

import io
import re
import signal
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import playwright.sync_api as playwright
import pytest
from PIL import Image

from support.chromium import NewPage
from support.local_server import LocalServer
from support.server_rig import ServerRig, until

CHANNEL = "show-0123456789abcdef"
OBS_SIZE = {"width": 1280, "height": 720}

# At each frame: is every pixel covered by something opaque with a picture in it?
WATCH = """() => {
  window.gaps = [];
  window.showing = [];
  const opaque = (node) => getComputedStyle(node).visibility === "visible" && Number(getComputedStyle(node).opacity) === 1;
  const look = () => {
    const layers = [...document.querySelectorAll(".layer")];
    const fallback = document.getElementById("fallback");
    const covered = opaque(fallback) || layers.some((layer) => opaque(layer) && layer.readyState >= 2);
    if (!covered) window.gaps.push(layers.map((layer) => `${layer.className} ${layer.readyState}`).join(", "));
    const now = document.getElementById("stage").dataset.showing;
    if (window.showing.at(-1) !== now) window.showing.push(now);
    requestAnimationFrame(look);
  };
  look();
}"""


@pytest.fixture
def http(rig: ServerRig) -> Iterator[httpx.Client]:
    with rig.serve() as client:
        yield client


def ask(http: httpx.Client, seed: int, channel: str = CHANNEL, **fields: object) -> None:
    body = {"prompt": f"cat {seed}", "seed": seed, "duration": 1, "channel": channel} | fields
    assert http.post("/generate", json=body, headers={"Prefer": "respond-async"}).status_code == 202


def render_clips(rig: ServerRig, http: httpx.Client, *seeds: int) -> list[str]:
    """Render clips for the channel, and return their ids."""
    clips = []
    for seed in seeds:
        ask(http, seed)
        clips.append(rig.render_next().clip_id)
    return clips


def open_overlay(new_page: NewPage, http: httpx.Client, query: str = "") -> Any:
    page = new_page(str(http.base_url), viewport=OBS_SIZE)
    watch_overlay(page, query)
    return page


def watch_overlay(page: Any, query: str = "") -> None:
    page.goto(f"/overlay?channel={CHANNEL}{query}")
    page.wait_for_selector("#fallback.on")
    page.evaluate(WATCH)


def open_with_clips(
    rig: ServerRig, http: httpx.Client, new_page: NewPage, *seeds: int, query: str = ""
) -> tuple[Any, list[str]]:
    """Open an overlay that finds all clips at once: a slow machine renders one too late to follow another."""
    page = new_page(str(http.base_url), viewport=OBS_SIZE)
    held: list[Any] = []
    clips: list[str] = []
    page.route("**/channels/**", lambda route: route.continue_() if clips else held.append(route))
    watch_overlay(page, query)
    clips += render_clips(rig, http, *seeds)
    for route in held:
        route.continue_()
    return page, clips


def shows(page: Any, clip_id: str) -> None:
    page.wait_for_function("id => window.showing.includes(id)", arg=clip_id)


def falls_back(page: Any) -> None:
    """Wait until the last clip has faded out and its file is released."""
    page.wait_for_function(
        "() => window.showing.at(-1) === 'fallback' && document.querySelectorAll('video[src]').length === 0"
    )


def signals(http: httpx.Client) -> dict[str, int]:
    return dict(http.get("/status").json()["signals"])


def test_clips_play_once_each_in_order_with_never_a_gap(
    rig: ServerRig, http: httpx.Client, new_page: NewPage, artifacts: Path
) -> None:
    page, (first, second, third) = open_with_clips(rig, http, new_page, 0, 1, 2)
    shows(page, first)
    page.screenshot(path=artifacts / "overlay-clip.png")
    shows(page, third)
    falls_back(page)
    assert page.evaluate("showing") == ["fallback", first, second, third, "fallback"]
    assert page.evaluate("gaps") == []
    until(lambda: signals(http).get("latency_observed") == 3)
    assert "fallback_played" not in signals(http), "no clip was due"
    assert "playback_error" not in signals(http)


def test_the_scene_counts_as_a_fallback_only_when_a_clip_was_due(
    rig: ServerRig, http: httpx.Client, new_page: NewPage
) -> None:
    page = open_overlay(new_page, http, "&caption=prompt")
    ask(http, 0)
    page.wait_for_selector("#caption-next:not([hidden])")
    clip_id = rig.render_next().clip_id
    shows(page, clip_id)
    falls_back(page)
    ask(http, 1)
    page.wait_for_selector("#caption-next:not([hidden])")
    rig.fail_next()
    until(lambda: signals(http).get("fallback_played") == 1)


def test_a_held_clip_is_on_screen_once_it_is_shown_and_not_announced_before(
    rig: ServerRig, http: httpx.Client, new_page: NewPage
) -> None:
    page = open_overlay(new_page, http, "&caption=prompt")
    ask(http, 0, hold=True)
    held = rig.render_next()
    (free,) = render_clips(rig, http, 1)
    shows(page, free)
    falls_back(page)
    assert http.post(f"/jobs/{held.job_id}/show").status_code == 200
    shows(page, held.clip_id)
    assert page.evaluate("showing").count(free) == 1


def hide(http: httpx.Client, clip_id: str) -> None:
    http.post("/operator", json={"action": "hide", "clip_id": clip_id}).raise_for_status()


def learns_of_it(page: Any) -> None:
    """Wait until the page has read its channel after an act."""
    for _ in range(
        3
    ):  # the first answer may be older than the act, and the third comes after the second was used
        with page.expect_response(lambda answer: "/channels/" in answer.url):
            pass


def test_a_clip_that_is_hidden_leaves_the_screen_and_the_replays(
    rig: ServerRig, http: httpx.Client, new_page: NewPage
) -> None:
    page, (first, second) = open_with_clips(rig, http, new_page, 0, 1, query="&replay=2&loop=1")
    shows(page, second)
    page.wait_for_function("() => document.querySelector('#replay-mark:not([hidden])')")

    hide(http, second)
    learns_of_it(page)
    assert second not in page.evaluate("document.getElementById('stage').dataset.showing")
    page.evaluate("showing.length = 0")
    for _ in range(3):  # rounds of the one that is left
        with page.expect_response(lambda answer: f"/outputs/{first}" in answer.url):
            pass
    assert second not in page.evaluate("showing")


# Clips play slowly until `atFullSpeed`, so that what must happen during one has the time.
SLOWLY = """
  let rate = 0.0625;
  addEventListener("play", ({ target }) => { target.playbackRate = rate; }, true);
  window.atFullSpeed = () => {
    rate = 1;
    for (const video of document.querySelectorAll("video")) video.playbackRate = rate;
  };
"""


def open_slowly(
    rig: ServerRig, http: httpx.Client, new_page: NewPage, query: str = ""
) -> tuple[Any, str, str, list[Any]]:
    """Open an overlay with two clips, whose second file waits; return them and the requests for that file."""
    first, second = render_clips(rig, http, 0, 1)
    page = new_page(str(http.base_url), viewport=OBS_SIZE)
    page.add_init_script(SLOWLY)
    page.add_init_script(f"window.addEventListener('DOMContentLoaded', {WATCH})")
    waiting: list[Any] = []
    page.route(f"**/outputs/{second}*", lambda route: waiting.append(route))
    page.goto(f"/overlay?channel={CHANNEL}{query}")
    return page, first, second, waiting


def load(page: Any, waiting: list[Any]) -> None:
    while not waiting:
        page.wait_for_timeout(10)
    page.unroute("**/outputs/**")
    for route in waiting:
        route.continue_()


def test_a_clip_that_is_hidden_while_it_waits_for_its_turn_is_never_seen(
    rig: ServerRig, http: httpx.Client, new_page: NewPage
) -> None:
    page, first, second, waiting = open_slowly(rig, http, new_page)
    load(page, waiting)
    page.wait_for_function(
        "() => [...document.querySelectorAll('.layer')].every((layer) => layer.readyState === 4)"
    )
    hide(http, second)
    learns_of_it(page)
    page.evaluate("atFullSpeed()")
    falls_back(page)
    assert page.evaluate("showing") == ["fallback", first, "fallback"]


@pytest.mark.parametrize("moment", ["while the next one loads", "while it fades in"])
def test_a_clip_that_is_hidden_on_screen_costs_the_next_one_nothing(
    rig: ServerRig, http: httpx.Client, new_page: NewPage, moment: str
) -> None:
    fades = moment.endswith("fades in")
    page, first, second, waiting = open_slowly(rig, http, new_page, "&fade_ms=3000" if fades else "")
    shows(page, first)
    while not (fades or waiting):
        page.wait_for_timeout(10)
    hide(http, first)
    page.wait_for_function("() => window.showing.at(-1) === 'fallback'")
    page.evaluate("atFullSpeed()")
    load(page, waiting)
    shows(page, second)
    falls_back(page)
    assert page.evaluate("gaps") == []
    assert "clip_skipped" not in signals(http)
    assert "playback_error" not in signals(http)


def test_a_fade_that_began_late_ends_before_the_clip_beneath_it_goes(
    http: httpx.Client, new_page: NewPage
) -> None:
    page = open_overlay(new_page, http)
    opacity = page.evaluate(
        """async () => {
          const frame = () => new Promise(requestAnimationFrame);
          const { classList } = document.getElementById("layer-a");
          classList.add("entering");
          for (let frames = 0; frames < 3; frames++) await frame();
          classList.add("shown");
          classList.remove("entering");
          return getComputedStyle(document.getElementById("layer-a")).opacity;
        }"""
    )
    assert opacity == "1"


def test_the_next_clip_is_loaded_before_the_last_one_ends(
    rig: ServerRig, http: httpx.Client, new_page: NewPage
) -> None:
    page, (first, second) = open_with_clips(rig, http, new_page, 0, 1)
    shows(page, first)
    page.wait_for_function(
        """() => [...document.querySelectorAll(".layer")].filter((layer) => layer.readyState === 4).length === 2"""
    )
    shows(page, second)


def test_a_link_that_died_while_it_waited_is_renewed(
    rig: ServerRig, http: httpx.Client, new_page: NewPage
) -> None:
    rig.clock.ahead = timedelta(hours=-1)  # the link is minted now, and old by the time it is used
    (clip,) = render_clips(rig, http, 0)
    page = new_page(str(http.base_url), viewport=OBS_SIZE)
    statuses = []
    page.on("response", lambda answer: statuses.append(answer.status) if "/outputs/" in answer.url else None)

    def wait_an_hour(route: Any) -> None:
        rig.clock.ahead = timedelta(0)
        route.continue_()

    page.route("**/outputs/**", wait_an_hour)
    page.add_init_script(f"localStorage.setItem('anime-studio.overlay.{CHANNEL}', '0')")
    page.goto(f"/overlay?channel={CHANNEL}")
    page.evaluate(WATCH)
    shows(page, clip)
    assert statuses[0] == 403
    assert statuses[-1] in (200, 206)
    until(lambda: signals(http).get("url_expired") == 1)


def test_a_clip_that_cannot_play_is_skipped_and_reported(
    rig: ServerRig, http: httpx.Client, new_page: NewPage
) -> None:
    page = open_overlay(new_page, http)
    ask(http, 0)
    ask(http, 1)
    with rig.worker_store() as worker_store:
        broken = rig.finish(worker_store, rig.claim(worker_store))
        for file in (rig.folder / "clips").glob("*.mp4"):
            file.write_bytes(b"not a film")
        whole = rig.finish(worker_store, rig.claim(worker_store))
    shows(page, whole.clip_id)
    assert broken.clip_id not in page.evaluate("showing")
    assert page.evaluate("gaps") == []
    until(lambda: signals(http).get("clip_skipped") == 1)
    assert signals(http)["playback_error"] >= 1


def test_it_sees_no_other_channel_and_goes_on_after_a_reload(
    rig: ServerRig, http: httpx.Client, new_page: NewPage
) -> None:
    ask(http, 5, channel="another-show-0123456789")
    other = rig.render_next().clip_id
    page = open_overlay(new_page, http)
    (first,) = render_clips(rig, http, 0)
    shows(page, first)
    falls_back(page)
    page.reload()
    page.evaluate(WATCH)
    (second,) = render_clips(rig, http, 1)
    shows(page, second)
    assert not {first, other} & set(page.evaluate("showing"))


@pytest.mark.parametrize("ahead_min", [11, -11, 24 * 60])
def test_the_viewers_clock_does_not_matter(
    rig: ServerRig, http: httpx.Client, new_page: NewPage, ahead_min: int
) -> None:
    (before,) = render_clips(rig, http, 0)
    page = new_page(str(http.base_url), viewport=OBS_SIZE)
    page.add_init_script(
        f"""const Real = Date;
        Date = class extends Real {{
          constructor(...parts) {{ parts.length ? super(...parts) : super(Real.now() + {ahead_min * 60_000}); }}
          static now() {{ return Real.now() + {ahead_min * 60_000}; }}
        }};"""
    )
    page.goto(f"/overlay?channel={CHANNEL}")
    page.evaluate(WATCH)
    shows(page, before)
    (after,) = render_clips(rig, http, 1)
    shows(page, after)


def test_a_fresh_overlay_begins_with_clips_that_are_not_too_old(
    rig: ServerRig, http: httpx.Client, new_page: NewPage
) -> None:
    rig.clock.ahead = timedelta(minutes=-11)
    (old,) = render_clips(rig, http, 0)
    rig.clock.ahead = timedelta(0)
    (recent,) = render_clips(rig, http, 1)
    page = open_overlay(new_page, http)
    shows(page, recent)
    falls_back(page)
    assert old not in page.evaluate("showing")


def test_it_survives_a_server_that_does_not_answer(
    rig: ServerRig, http: httpx.Client, new_page: NewPage
) -> None:
    page = open_overlay(new_page, http)
    page.route("**/channels/**", lambda route: route.abort())
    (clip,) = render_clips(rig, http, 0)
    for _ in range(2):
        with page.expect_event("requestfailed", lambda request: "/channels/" in request.url):
            pass
    assert page.evaluate("showing") == ["fallback"]
    page.unroute("**/channels/**")
    shows(page, clip)


def test_hours_of_clips_leave_no_more_behind_than_a_few(http: httpx.Client, new_page: NewPage) -> None:
    page = open_overlay(new_page, http)
    held = page.evaluate(
        """async () => {
          const { Channel } = await import("/static/channel.js");
          let skipped = 0;
          const channel = new Channel("show-of-a-whole-night", { onSkipped: () => { skipped += 1; }, remember: 20 });
          for (let number = 0; number < 20000; number++) {
            for (let again = 0; again < 3; again++) channel.enqueue({ clip: { clip_id: `c_${number}` }, sequence: number + 1 });
          }
          for (const entry of [...channel.queue]) channel.keep(entry);
          return { recent: channel.recent.length, queue: channel.queue.length, seen: channel.seen.size, skipped,
            last: channel.queue.at(-1).clip.clip_id };
        }"""
    )
    assert held == {"recent": 20, "queue": 40, "seen": 400, "skipped": 19960, "last": "c_19999"}


def test_playing_many_clips_grows_neither_the_page_nor_its_decoders(
    rig: ServerRig, http: httpx.Client, new_page: NewPage
) -> None:
    page = open_overlay(new_page, http, "&fade_ms=50")
    count = "() => [document.querySelectorAll('*').length, document.querySelectorAll('video[src]').length]"
    nodes, _ = page.evaluate(count)
    clips = render_clips(rig, http, *range(6))
    shows(page, clips[-1])
    falls_back(page)
    assert page.evaluate(count)[0] == nodes
    assert [seen for seen in page.evaluate("showing") if seen != "fallback"] == clips


@pytest.mark.parametrize("size", [(1920, 1080), (832, 480), (360, 200), (300, 900)])
def test_it_is_transparent_and_has_no_scroll_bar_at_any_size(
    http: httpx.Client, new_page: NewPage, size: tuple[int, int]
) -> None:
    page = new_page(str(http.base_url), viewport={"width": size[0], "height": size[1]})
    page.goto(f"/overlay?channel={CHANNEL}")
    page.wait_for_selector("#fallback.on")
    box = page.evaluate(
        "() => [document.documentElement.scrollWidth, document.documentElement.scrollHeight, innerWidth, innerHeight]"
    )
    assert box == [*size, *size]
    grounds = page.evaluate(
        "() => [document.documentElement, document.body, stage].map((node) => getComputedStyle(node).backgroundColor)"
    )
    assert grounds == ["rgba(0, 0, 0, 0)"] * 3


def test_a_clip_of_ones_own_may_be_the_fallback(
    rig: ServerRig, http: httpx.Client, new_page: NewPage
) -> None:
    ask(http, 0, channel="another-show-0123456789")
    rig.render_next()
    (entry,) = http.get("/channels/another-show-0123456789/clips").json()["clips"]
    url = str(httpx.QueryParams({"fallback": entry["clip"]["url"]}))
    page = new_page(str(http.base_url), viewport=OBS_SIZE)
    page.goto(f"/overlay?channel={CHANNEL}&{url}")
    page.wait_for_function("() => document.getElementById('fallback-clip').currentTime > 0.2")


def test_without_a_channel_it_says_what_is_missing(http: httpx.Client, new_page: NewPage) -> None:
    page = new_page(str(http.base_url), viewport=OBS_SIZE)
    page.goto("/overlay?channel=short")
    page.wait_for_selector("#setup:not([hidden])")
    assert re.search(r"needs \?channel=", page.inner_text("#setup"))


MARKED = "() => !document.getElementById('replay-mark').hidden"


def test_gaps_are_filled_with_marked_replays_newest_first_and_then_the_scene(
    rig: ServerRig, http: httpx.Client, new_page: NewPage
) -> None:
    page, clips = open_with_clips(rig, http, new_page, 0, 1, 2, query="&replay=2&fade_ms=50")
    shows(page, clips[2])
    page.wait_for_function(MARKED)
    falls_back(page)
    first, second, third = clips
    # The newest is shown, and shown again: the same name twice is one entry.
    assert page.evaluate("showing") == ["fallback", first, second, third, second, "fallback"]
    assert page.evaluate("document.getElementById('replay-mark').hidden")
    assert signals(http).get("latency_observed", 3) == 3  # a replay is no new clip


def test_a_new_clip_interrupts_a_replay_that_goes_round_and_round(
    rig: ServerRig, http: httpx.Client, new_page: NewPage
) -> None:
    page, (old,) = open_with_clips(rig, http, new_page, 0, query="&loop=1&fade_ms=50")
    for _ in range(2):
        page.wait_for_function(MARKED)
        page.wait_for_function(
            "() => [...document.querySelectorAll('video.shown')].some(({ currentTime }) => currentTime > 0.8)"
        )
    assert set(page.evaluate("showing")) == {"fallback", old}
    (new,) = render_clips(rig, http, 1)
    page.wait_for_function("id => window.showing.includes(id)", arg=new)
    assert page.evaluate("gaps") == []


def test_a_reload_replays_the_clips_of_before_and_a_swept_one_is_left_out(
    rig: ServerRig, http: httpx.Client, new_page: NewPage
) -> None:
    page, (swept, kept) = open_with_clips(rig, http, new_page, 0, 1, query="&replay=3&fade_ms=50")
    shows(page, kept)
    falls_back(page)
    for file in (rig.folder / "clips").glob(f"{swept}*"):
        file.unlink()
    page.reload()
    page.evaluate(WATCH)
    page.wait_for_function(MARKED)
    falls_back(page)
    assert set(page.evaluate("showing")) == {"fallback", kept}


def alpha_of(png: bytes) -> tuple[int, int]:
    """Return the least and the greatest alpha of a picture's pixels."""
    return Image.open(io.BytesIO(png)).convert("RGBA").getextrema()[3]


def test_idle_transparent_leaves_every_pixel_empty_before_and_after_a_clip(
    rig: ServerRig, http: httpx.Client, new_page: NewPage
) -> None:
    page = new_page(str(http.base_url), viewport=OBS_SIZE)
    page.goto(f"/overlay?channel={CHANNEL}&idle=transparent&fade_ms=50&caption=prompt")
    page.evaluate(WATCH)
    assert alpha_of(page.screenshot(omit_background=True)) == (0, 0)
    (clip,) = render_clips(rig, http, 0)
    shows(page, clip)
    page.wait_for_function("() => document.querySelector('video.shown')")
    assert alpha_of(page.screenshot(omit_background=True)) == (255, 255)
    page.wait_for_function("() => document.querySelectorAll('video[src]').length === 0")
    assert alpha_of(page.screenshot(omit_background=True)) == (0, 0)


def test_idle_last_frame_stays_on_the_end_of_the_clip_until_the_next(
    rig: ServerRig, http: httpx.Client, new_page: NewPage
) -> None:
    (first,) = render_clips(rig, http, 0)
    page = new_page(str(http.base_url), viewport=OBS_SIZE)
    page.goto(f"/overlay?channel={CHANNEL}&idle=last-frame&fade_ms=50")
    page.evaluate(WATCH)
    shows(page, first)
    page.wait_for_function("() => document.querySelector('video.shown')?.ended")
    assert alpha_of(page.screenshot(omit_background=True)) == (255, 255)
    (second,) = render_clips(rig, http, 1)
    shows(page, second)
    assert page.evaluate("showing")[-2:] == [first, second]


def test_the_caption_names_the_clip_and_the_one_that_is_being_drawn(
    rig: ServerRig, http: httpx.Client, new_page: NewPage, artifacts: Path
) -> None:
    page = open_overlay(new_page, http, "&caption=who,prompt&loop=1")
    assert page.locator("#caption-next").is_hidden()
    render_clips(rig, http, 3)
    playwright.expect(page.locator("#caption-prompt")).to_have_text("cat 3")
    ask(http, 4)
    ask(http, 5)
    playwright.expect(page.locator("#next-stage")).to_have_text("Next in line:")
    with rig.worker_store() as worker_store:
        job = rig.step(worker_store, rig.claim(worker_store), 1)
        playwright.expect(page.locator("#caption-next")).to_contain_text(
            "Drawing, step 2 of 3: cat 4, 1 more waiting"
        )
        assert page.is_hidden("#note")
        page.screenshot(path=artifacts / "overlay-caption.png")
        rig.finish(worker_store, job)
    playwright.expect(page.locator("#next-stage")).to_have_text("Next in line:")
    playwright.expect(page.locator("#caption-prompt")).to_have_text("cat 4")


def test_the_caption_says_who_asked(rig: ServerRig, http: httpx.Client, new_page: NewPage) -> None:
    page = open_overlay(new_page, http, "&caption=who&loop=1")
    ask(http, 1, requested_by="mio")
    rig.render_next()
    playwright.expect(page.locator("#caption-who")).to_have_text("\u2068mio\u2069")
    assert page.locator("#caption-prompt").inner_text() == ""
    ask(http, 2, requested_by="يوي")
    playwright.expect(page.locator("#next-stage")).to_have_text("Next in line for \u2068يوي\u2069")
    with rig.worker_store() as worker_store:
        rig.step(worker_store, rig.claim(worker_store), 1)
        playwright.expect(page.locator("#next-stage")).to_have_text(
            "Drawing for \u2068يوي\u2069, step 2 of 3"
        )


HARD_TEXTS = {
    "long": "a very long prompt about a cat " * 60,
    "one-word": "w" * 1999,
    "marks": "z" + "\u0301\u0300\u0316" * 600,
    "arabic": "قطة برتقالية على سطح المنزل في الليل " * 8,
    "japanese": "夜の屋根の上にいる猫が月を見ている" * 20,
    "markup": "<img src=x onerror=alert(1)> & <b>bold</b>",
    "override": "\u202ereversed text stays inside its own line",
}


@pytest.mark.parametrize("size", [(1280, 720), (1920, 1080), (640, 360), (360, 640)])
def test_a_caption_of_any_text_stays_in_its_box_and_is_large_enough(
    rig: ServerRig, http: httpx.Client, new_page: NewPage, artifacts: Path, size: tuple[int, int]
) -> None:
    rig.policy = replace(rig.policy, max_queued_jobs=40)
    page = new_page(str(http.base_url), viewport={"width": size[0], "height": size[1]})
    page.goto(f"/overlay?channel={CHANNEL}&caption=who,prompt&idle=transparent")
    for name, text in HARD_TEXTS.items():
        page.evaluate(SHOW_TEXT, text)
        page.screenshot(path=artifacts / f"overlay-caption-{name}-{size[0]}.png", omit_background=True)
        outside = page.evaluate(OUTSIDE_SAFE_AREA)
        assert outside == [], name
        assert page.evaluate(
            "getComputedStyle(document.querySelector('.caption')).fontSize"
        ) == pytest.approx(f"{max(14, 0.034 * size[1]):g}px")


SHOW_TEXT = """async (prompt) => {
  const { Caption } = await import("/static/caption.js");
  const caption = new Caption(["who", "prompt"]);
  const requested_by = prompt.slice(0, 64);
  caption.showClip({ prompt, requested_by, isReplay: true });
  const progress = { step: 1, total_steps: 3, fraction: 0.4 };
  caption.showUpcoming([{ prompt, requested_by, state: "running", stage: "denoise", progress }]);
}"""
# The pixels that are painted outside of the 5 % safe area would be cut by a television; the boxes say where they are.
OUTSIDE_SAFE_AREA = """() => [...document.querySelectorAll("#caption, .caption-box, #replay-mark, #caption-next")]
  .filter((node) => node.getClientRects().length > 0)
  .map((node) => [node.id || node.className, node.getBoundingClientRect()])
  .filter(([, box]) => box.left < 0.05 * innerWidth - 1 || box.right > 0.95 * innerWidth + 1
    || box.top < 0.05 * innerHeight - 1 || box.bottom > 0.95 * innerHeight + 1)
  .map(([name]) => name)"""


WATCH_WAITS = """() => {
  window.waits = [];
  const real = setTimeout;
  window.setTimeout = (call, ms) => { waits.push(ms); return real(call, ms); };
}"""


def test_it_asks_more_often_while_a_clip_is_being_drawn(http: httpx.Client, new_page: NewPage) -> None:
    page = open_overlay(new_page, http)
    page.evaluate(WATCH_WAITS)
    page.wait_for_function("() => waits.includes(2000)")
    ask(http, 0)
    page.wait_for_function("() => waits.includes(400)")


def test_an_unknown_option_is_named(http: httpx.Client, new_page: NewPage) -> None:
    page = new_page(str(http.base_url), viewport=OBS_SIZE)
    for query, words in (("idle=black", "scene, transparent, last-frame"), ("caption=author", "who, prompt")):
        page.goto(f"/overlay?channel={CHANNEL}&{query}")
        playwright.expect(page.locator("#setup")).to_contain_text(words)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_night_of_200_clips_leaves_neither_memory_nor_nodes_behind(
    rig: ServerRig, http: httpx.Client, new_page: NewPage
) -> None:
    page = new_page(str(http.base_url), viewport=OBS_SIZE)
    page.add_init_script("addEventListener('play', ({ target }) => { target.playbackRate = 16; }, true)")
    page.goto(f"/overlay?channel={CHANNEL}&fade_ms=0&replay=3&caption=who,prompt")
    devtools = page.context.new_cdp_session(page)
    devtools.send("Performance.enable")

    def held() -> dict[str, float]:
        devtools.send("HeapProfiler.collectGarbage")
        metrics = devtools.send("Performance.getMetrics")["metrics"]
        return {one["name"]: one["value"] for one in metrics}

    after: list[dict[str, float]] = []
    with rig.worker():
        for hour in range(4):
            for seed in range(50):
                until(lambda: http.get("/ready").json()["queued"] < 3)
                ask(http, 100 * hour + seed)
            page.wait_for_function(
                "prompt => document.getElementById('caption-prompt').textContent === prompt",
                arg=f"cat {100 * hour + 49}",
            )
            after.append(held())
    first, last = after[0], after[-1]
    assert last["Nodes"] <= first["Nodes"] + 20
    assert last["JSEventListeners"] <= first["JSEventListeners"] + 5
    assert last["JSHeapUsedSize"] <= first["JSHeapUsedSize"] * 1.15 + 200_000


def test_a_restart_of_the_server_costs_no_clip(server: LocalServer, new_page: NewPage) -> None:
    page = new_page(str(server.http.base_url), viewport=OBS_SIZE)
    watch_overlay(page, "&caption=prompt")
    server.stop(signal.SIGKILL)
    with page.expect_event("requestfailed", lambda request: "/channels/" in request.url):
        pass
    server.start()
    job = server.ended(server.submit("after the restart", channel=CHANNEL)["job_id"])
    shows(page, job["clip"]["clip_id"])
    assert page.evaluate("gaps") == []
