"""Status, warm, recipe, channels and pages over a real socket; the operator's commands against them."""

import json
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from common.show import ChannelClips, RecipeCard, ShowStatus
from support.stage import Stage

CHANNEL = "show-0123456789abcdef"
BROWSER_ACCEPT = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


def ask(http: httpx.Client, **fields: object) -> str:
    body = {"prompt": "a cat", "duration": 1} | fields
    return str(http.post("/generate", json=body, headers={"Prefer": "respond-async"}).json()["job_id"])


def run(http: httpx.Client, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "anime_studio.cli", *arguments, "--url", str(http.base_url)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (BROWSER_ACCEPT, "text/html"),
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("text/html;q=0.5, application/json", "application/json"),
        ("text/html;q=nonsense", "application/json"),
    ],
)
def test_status_is_a_page_for_browsers_and_json_for_the_rest(
    http: httpx.Client, accept: str, media_type: str
) -> None:
    answer = http.get("/status", headers={"Accept": accept})
    assert answer.headers["content-type"].startswith(media_type)
    assert answer.headers["vary"] == "Accept"


def test_status_adds_up_the_last_hour_and_forgets_what_is_older(stage: Stage, http: httpx.Client) -> None:
    ask(http)
    stage.draw_next()
    stage.clock.ahead = timedelta(hours=2)
    ask(http)
    stage.draw_next()
    ask(http)
    stage.fail_next()
    ask(http)
    status = ShowStatus.model_validate(http.get("/status?jobs=10").json())
    assert (status.finished, status.succeeded, status.failed) == (2, 1, 1)
    assert status.readiness.queued == 1
    assert status.spend.usd > 0
    assert [error.code for error in status.errors] == ["frames_invalid"]
    assert [job.state for job in status.jobs] == ["failed", "succeeded"]
    assert len(http.get("/status?window_s=86400&jobs=10").json()["jobs"]) == 3


def test_signals_show_in_the_operators_view(http: httpx.Client) -> None:
    signals = [
        {"kind": "fallback_played", "source": "obs"},
        {"kind": "queue_depth", "source": "bot", "value": 2},
    ]
    http.post("/telemetry/signals", json={"signals": signals})
    status = http.get("/status").json()
    assert status["signals"] == {"fallback_played": 1, "queue_depth": 1}
    assert status["fallbacks"] == 1


def test_a_channel_gives_its_clips_in_order_with_links_that_open(stage: Stage, http: httpx.Client) -> None:
    for seed in range(3):
        ask(http, seed=seed, channel=CHANNEL, prompt=f"cat {seed}")
        stage.draw_next()
    ask(http)
    stage.draw_next()
    clips = ChannelClips.model_validate(http.get(f"/channels/{CHANNEL}/clips").json()).clips
    assert [clip.prompt for clip in clips] == ["cat 0", "cat 1", "cat 2"]
    assert all(httpx.get(clip.clip.url).status_code == 200 for clip in clips)
    later = http.get(f"/channels/{CHANNEL}/clips", params={"after": clips[1].finished_at.isoformat()}).json()
    assert [clip["prompt"] for clip in later["clips"]] == ["cat 2"]


def test_a_busy_channel_is_read_in_pages_even_past_clips_that_were_swept(
    stage: Stage, http: httpx.Client
) -> None:
    drawn = []
    for seed in range(23):
        ask(http, seed=seed, channel=CHANNEL)
        drawn.append(stage.draw_next().clip_id)
    for clip_id in drawn[:20]:
        for file in (stage.folder / "clips").glob(f"{clip_id}*"):
            file.unlink()
    first = http.get(f"/channels/{CHANNEL}/clips").json()
    assert first["clips"] == []
    rest = http.get(f"/channels/{CHANNEL}/clips", params={"after": first["next_after"]}).json()
    assert [clip["clip"]["clip_id"] for clip in rest["clips"]] == drawn[20:]
    assert rest["next_after"] is None


def test_a_channel_opens_clips_and_never_their_jobs(stage: Stage, http: httpx.Client) -> None:
    job_id = ask(http, channel=CHANNEL)
    stage.draw_next()
    told = http.get(f"/channels/{CHANNEL}/clips").text
    assert len(json.loads(told)["clips"]) == 1
    assert job_id not in told


def test_an_unknown_channel_is_empty_and_a_guessable_one_is_refused(http: httpx.Client) -> None:
    assert http.get("/channels/nobody-ever-used-this/clips").json()["clips"] == []
    assert http.get("/channels/short/clips").status_code == 422
    assert http.get(f"/channels/{CHANNEL}/clips?after=1795464000").status_code == 422


def test_warm_asks_a_worker_and_other_sites_may_not(stage: Stage, http: httpx.Client) -> None:
    answer = http.post("/warm")
    assert (answer.status_code, answer.json()["status"], stage.launcher.warmed) == (202, "ready", 1)
    assert http.post("/warm", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert http.post("/warm", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 202
    stage.launcher.refuses = True
    assert http.post("/warm").json()["code"] == "unavailable"
    assert stage.launcher.warmed == 2


def test_the_recipe_says_what_a_form_needs(http: httpx.Client) -> None:
    card = RecipeCard.model_validate(http.get("/recipe").json())
    assert card.name == "tiny-random"
    assert [size.resolution for size in card.sizes] == ["480p", "480p-portrait"]


@pytest.mark.parametrize("page", ["/", "/overlay", "/status"])
def test_pages_allow_nothing_inline_and_nothing_from_elsewhere(http: httpx.Client, page: str) -> None:
    answer = http.get(page, headers={"Accept": BROWSER_ACCEPT})
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert not re.search(
        r"<style|<script(?![^>]* src=)| style=| on[a-z]+=|//[a-z]",
        answer.text.replace("http://www.w3.org", ""),
    )
    for name in re.findall(r'(?:href|src)="(static/[^"]+)"', answer.text):
        assert http.get(f"/{name}").status_code == 200


def test_files_are_revalidated_not_resent(http: httpx.Client) -> None:
    first = http.get("/static/studio.js")
    assert first.headers["cache-control"] == "no-cache"
    again = http.get("/static/studio.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert http.head("/").status_code == 200


@pytest.mark.parametrize("name", ["..%2fapp.py", "%2e%2e/app.py", "studio.html", "index.html", "nothing.js"])
def test_only_the_pages_files_are_served(http: httpx.Client, name: str) -> None:
    assert http.get(f"/static/{name}").status_code == 404


@pytest.mark.parametrize(
    ("fallback", "media"),
    [
        ("https://clips.example/idle.mp4", "media-src 'self' https://clips.example;"),
        ("javascript:alert(1)", "media-src 'self';"),
        ("https://a.example; script-src *", "media-src 'self';"),
        ("https://user:secret@a.example/x", "media-src 'self';"),
        ("http://[::1", "media-src 'self';"),
    ],
)
def test_a_fallback_adds_its_origin_to_the_policy_and_nothing_else(
    http: httpx.Client, fallback: str, media: str
) -> None:
    policy = http.get("/overlay", params={"fallback": fallback}).headers["content-security-policy"]
    assert media in policy + ";"
    assert policy.count("script-src") == 1


def test_preflight_proves_the_whole_path(stage: Stage, http: httpx.Client) -> None:
    with stage.worker():
        code, told = run(http, "preflight", "--json")
    document = json.loads(told)
    assert (code, document["passed"]) == (0, True)
    names = [check["name"] for check in document["checks"]]
    assert names == ["health", "ready", "submit", "events", "clip", "ranges", "poster", "link", "receipt"]
    assert "signature" not in told


def test_preflight_stops_at_what_is_broken_and_says_so(stage: Stage, http: httpx.Client) -> None:
    stage.launcher.ready = stage.launcher.ready.model_copy(
        update={"ready": False, "status": "unavailable", "detail": "no weights"}
    )
    code, told = run(http, "preflight", "--json")
    last = json.loads(told)["checks"][-1]
    assert (code, last["name"], last["passed"]) == (1, "ready", False)
    assert "no weights" in last["detail"]


def test_preflight_sees_a_damaged_clip(stage: Stage, http: httpx.Client) -> None:
    class Careless(type(stage.clips)):  # type: ignore[misc]
        def publish(self, clip_id, rendered):
            clip = super().publish(clip_id, rendered)
            for file in (stage.folder / "clips").glob(f"{clip_id}*.mp4"):
                file.write_bytes(file.read_bytes()[:-1] + b"!")
            return clip

    stage.clips.__class__ = Careless
    with stage.worker():
        code, told = run(http, "preflight", "--json")
    assert (code, json.loads(told)["checks"][-1]["name"]) == (1, "clip")


def test_watch_shows_the_numbers(stage: Stage, http: httpx.Client) -> None:
    ask(http)
    stage.draw_next()
    code, told = run(http, "watch", "--once")
    assert code == 0
    assert re.search(r"success\s+100.0%\s+1 clips", told)
    assert re.search(r"denoise\s+0.30\s+0.30\s+1", told)
    assert json.loads(run(http, "watch", "--json")[1])["succeeded"] == 1


def test_report_writes_one_file(stage: Stage, http: httpx.Client, tmp_path: Path) -> None:
    ask(http)
    stage.draw_next()
    file = tmp_path / "show.html"
    code, told = run(http, "report", "--out", str(file))
    assert (code, "1 clips" in told) == (0, True)
    assert file.read_text().count("<circle") == 1


def test_warm_waits_until_a_worker_is_ready(stage: Stage, http: httpx.Client) -> None:
    assert run(http, "warm")[0] == 0
    stage.launcher.ready = stage.launcher.ready.model_copy(update={"status": "starting", "ready": False})
    assert run(http, "warm", "--timeout", "0")[0] == 6
    assert stage.launcher.warmed == 2
