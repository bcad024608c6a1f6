"""The overlay as OBS shows it: real Chromium, real server, store and files; the test plays the worker."""

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.chromium import NewPage
from support.stage import Stage, until

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
def http(stage: Stage) -> Iterator[httpx.Client]:
    with stage.serve() as client:
        yield client


def ask(http: httpx.Client, seed: int, channel: str = CHANNEL) -> None:
    body = {"prompt": f"cat {seed}", "seed": seed, "duration": 1, "channel": channel}
    assert http.post("/generate", json=body, headers={"Prefer": "respond-async"}).status_code == 202


def draw(stage: Stage, http: httpx.Client, *seeds: int) -> list[str]:
    """Have clips drawn for the channel, and return their ids."""
    clips = []
    for seed in seeds:
        ask(http, seed)
        clips.append(stage.draw_next().clip_id)
    return clips


def open_overlay(new_page: NewPage, http: httpx.Client, query: str = "") -> Any:
    page = new_page(str(http.base_url), viewport=OBS_SIZE)
    page.goto(f"/overlay?channel={CHANNEL}{query}")
    page.wait_for_selector("#fallback.on")
    page.evaluate(WATCH)
    return page


def shows(page: Any, clip_id: str) -> None:
    page.wait_for_function("id => window.showing.includes(id)", arg=clip_id)


def falls_back(page: Any) -> None:
    """Wait until the last clip has faded away and let go of its file."""
    page.wait_for_function(
        "() => window.showing.at(-1) === 'fallback' && document.querySelectorAll('video[src]').length === 0"
    )


def signals(http: httpx.Client) -> dict[str, int]:
    return dict(http.get("/status").json()["signals"])


def test_clips_play_once_each_in_order_with_never_a_gap(
    stage: Stage, http: httpx.Client, new_page: NewPage, artifacts: Path
) -> None:
    page = open_overlay(new_page, http)
    page.screenshot(path=artifacts / "overlay-fallback.png")
    first, second, third = draw(stage, http, 0, 1, 2)
    shows(page, first)
    page.screenshot(path=artifacts / "overlay-clip.png")
    shows(page, third)
    falls_back(page)
    assert page.evaluate("showing") == ["fallback", first, second, third, "fallback"]
    assert page.evaluate("gaps") == []
    until(lambda: signals(http).get("latency_observed") == 3)
    assert signals(http)["fallback_played"] == 2
    assert "playback_error" not in signals(http)


def test_the_next_clip_is_loaded_before_the_last_one_ends(
    stage: Stage, http: httpx.Client, new_page: NewPage
) -> None:
    page = open_overlay(new_page, http)
    first, second = draw(stage, http, 0, 1)
    shows(page, first)
    page.wait_for_function(
        """() => [...document.querySelectorAll(".layer")].filter((layer) => layer.readyState === 4).length === 2"""
    )
    shows(page, second)


def test_a_link_that_died_while_it_waited_is_renewed(
    stage: Stage, http: httpx.Client, new_page: NewPage
) -> None:
    stage.clock.ahead = timedelta(hours=-1)  # the link is minted now, and old by the time it is used
    (clip,) = draw(stage, http, 0)
    page = new_page(str(http.base_url), viewport=OBS_SIZE)
    statuses = []
    page.on("response", lambda answer: statuses.append(answer.status) if "/outputs/" in answer.url else None)

    def wait_an_hour(route: Any) -> None:
        stage.clock.ahead = timedelta(0)
        route.continue_()

    page.route("**/outputs/**", wait_an_hour)
    page.add_init_script(f"localStorage.setItem('anime-studio.overlay.{CHANNEL}', '2020-01-01T00:00:00Z')")
    page.goto(f"/overlay?channel={CHANNEL}")
    page.evaluate(WATCH)
    shows(page, clip)
    assert statuses[0] == 403
    assert statuses[-1] in (200, 206)
    until(lambda: signals(http).get("url_expired") == 1)


def test_a_clip_that_cannot_play_is_skipped_and_said_so(
    stage: Stage, http: httpx.Client, new_page: NewPage
) -> None:
    page = open_overlay(new_page, http)
    ask(http, 0)
    ask(http, 1)
    with stage.desk() as desk:
        broken = stage.finish(desk, stage.claim(desk))
        for file in (stage.folder / "clips").glob("*.mp4"):
            file.write_bytes(b"not a film")
        whole = stage.finish(desk, stage.claim(desk))
    shows(page, whole.clip_id)
    assert broken.clip_id not in page.evaluate("showing")
    assert page.evaluate("gaps") == []
    until(lambda: signals(http).get("clip_skipped") == 1)
    assert signals(http)["playback_error"] >= 1


def test_it_sees_no_other_channel_and_goes_on_after_a_reload(
    stage: Stage, http: httpx.Client, new_page: NewPage
) -> None:
    ask(http, 5, channel="another-show-0123456789")
    other = stage.draw_next().clip_id
    page = open_overlay(new_page, http)
    (first,) = draw(stage, http, 0)
    shows(page, first)
    falls_back(page)
    page.reload()
    page.evaluate(WATCH)
    (second,) = draw(stage, http, 1)
    shows(page, second)
    assert not {first, other} & set(page.evaluate("showing"))


def test_it_survives_a_server_that_goes_and_comes_back(stage: Stage, new_page: NewPage) -> None:
    with stage.serve() as http:
        page = open_overlay(new_page, http)
        page.route("**/channels/**", lambda route: route.abort())
        (clip,) = draw(stage, http, 0)
        page.wait_for_timeout(3000)
        assert page.evaluate("showing") == ["fallback"]
        page.unroute("**/channels/**")
        shows(page, clip)


def test_hours_of_clips_leave_no_more_behind_than_a_few(http: httpx.Client, new_page: NewPage) -> None:
    page = open_overlay(new_page, http)
    held = page.evaluate(
        """async () => {
          const { Channel } = await import("/static/channel.js");
          let skipped = 0;
          const channel = new Channel("show-of-a-whole-night", () => { skipped += 1; });
          for (let number = 0; number < 20000; number++) {
            const finished_at = new Date(Date.now() + number * 1000).toISOString();
            for (let again = 0; again < 3; again++) channel.offer({ clip: { clip_id: `c_${number}` }, finished_at });
          }
          return { queue: channel.queue.length, seen: channel.seen.size, skipped, last: channel.queue.at(-1).clip.clip_id };
        }"""
    )
    assert held == {"queue": 40, "seen": 400, "skipped": 19960, "last": "c_19999"}


def test_playing_many_clips_grows_neither_the_page_nor_its_decoders(
    stage: Stage, http: httpx.Client, new_page: NewPage
) -> None:
    page = open_overlay(new_page, http, "&fade_ms=50")
    count = "() => [document.querySelectorAll('*').length, document.querySelectorAll('video[src]').length]"
    nodes, _ = page.evaluate(count)
    clips = draw(stage, http, *range(6))
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


def test_a_clip_of_ones_own_may_be_the_fallback(stage: Stage, http: httpx.Client, new_page: NewPage) -> None:
    ask(http, 0, channel="another-show-0123456789")
    stage.draw_next()
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
