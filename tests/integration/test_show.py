"""Status, warm, recipe, channels and pages over a real socket; the operator's commands against them."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from anime_studio.client import JobNotFoundError, StudioClient
from anime_studio.core.errors import CheckpointError
from anime_studio.core.jobs import RenderedClip, StoredClip
from anime_studio.core.notes import weights_swapped
from anime_studio.core.readiness import not_ready
from anime_studio.on_laptop.clips import FolderClips
from common.show import ChannelClips, RecipeCard, ShowStatus
from support.server_rig import PATIENCE_S, ServerRig

CHANNEL = "show-0123456789abcdef"
BROWSER_ACCEPT = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


def ask(http: httpx.Client, **fields: object) -> str:
    body = {"prompt": "a cat", "duration": 1} | fields
    return str(http.post("/generate", json=body, headers={"Prefer": "respond-async"}).json()["job_id"])


def run(http: httpx.Client, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "anime_studio.cli", *arguments, "--url", str(http.base_url)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
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


def test_status_adds_up_the_last_hour_and_forgets_what_is_older(rig: ServerRig, http: httpx.Client) -> None:
    ask(http)
    rig.render_next()
    rig.clock.ahead = timedelta(hours=2)
    ask(http)
    rig.render_next()
    ask(http)
    rig.fail_next()
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


def test_a_channel_gives_its_clips_in_order_with_links_that_open(rig: ServerRig, http: httpx.Client) -> None:
    for seed in range(3):
        ask(http, seed=seed, channel=CHANNEL, prompt=f"cat {seed}")
        rig.render_next()
    ask(http)
    rig.render_next()
    clips = ChannelClips.model_validate(http.get(f"/channels/{CHANNEL}/clips").json()).clips
    assert [clip.prompt for clip in clips] == ["cat 0", "cat 1", "cat 2"]
    assert all(httpx.get(clip.clip.url).status_code == 200 for clip in clips)
    later = http.get(f"/channels/{CHANNEL}/clips", params={"after": clips[1].sequence}).json()
    assert [clip["prompt"] for clip in later["clips"]] == ["cat 2"]


def test_a_held_clip_is_off_its_channel_and_unannounced_until_its_owner_shows_it(
    rig: ServerRig, http: httpx.Client
) -> None:
    held = ask(http, channel=CHANNEL, prompt="held", hold=True)
    channel = ChannelClips.model_validate(http.get(f"/channels/{CHANNEL}/clips").json())
    assert channel.upcoming == []
    rig.render_next()
    assert http.get(f"/channels/{CHANNEL}/clips").json()["clips"] == []
    assert http.get(f"/jobs/{held}").json()["clip"], "its owner sees it"
    with StudioClient(str(http.base_url)) as studio:
        assert studio.show_clip(held).job_id == held
        assert [clip.prompt for clip in studio.channel_clips(CHANNEL).clips] == ["held"]
        with pytest.raises(JobNotFoundError):
            studio.show_clip("j_" + "0" * 32)


def test_a_busy_channel_is_read_in_pages_even_past_clips_that_were_swept(
    rig: ServerRig, http: httpx.Client
) -> None:
    clip_ids = []
    for seed in range(23):
        ask(http, seed=seed, channel=CHANNEL)
        clip_ids.append(rig.render_next().clip_id)
    for clip_id in clip_ids[:20]:
        for file in (rig.folder / "clips").glob(f"{clip_id}*"):
            file.unlink()
    first = http.get(f"/channels/{CHANNEL}/clips", params={"after": 0}).json()
    assert (first["clips"], first["more"]) == ([], True)
    rest = http.get(f"/channels/{CHANNEL}/clips", params={"after": first["next_after"]}).json()
    assert [clip["clip"]["clip_id"] for clip in rest["clips"]] == clip_ids[20:]
    assert not rest["more"]
    assert http.get(f"/channels/{CHANNEL}/clips", params={"after": rest["next_after"]}).json()["clips"] == []
    newest = http.get(f"/channels/{CHANNEL}/clips").json()  # without a cursor
    assert [clip["clip"]["clip_id"] for clip in newest["clips"]] == clip_ids[20:]


@pytest.mark.parametrize("back", [timedelta(minutes=10), timedelta(hours=1)])
def test_a_clock_set_back_during_a_job_costs_no_answer_and_no_estimate(
    rig: ServerRig, http: httpx.Client, back: timedelta
) -> None:
    ask(http)
    with rig.worker_store() as worker_store:
        job = rig.claim(worker_store)
        rig.clock.ahead = -back
        rig.finish(worker_store, job)
    queued = http.post(
        "/generate", json={"prompt": "next", "duration": 1}, headers={"Prefer": "respond-async"}
    )
    assert queued.status_code == 202
    assert queued.json()["progress"]["eta_s"] == pytest.approx(0.43)  # what the last clip's stages took
    assert http.get("/ready").json()["eta_s"] == pytest.approx(2 * 0.43)
    assert http.get("/status").status_code == 200


def test_a_cursor_of_records_that_were_replaced_starts_again(rig: ServerRig, http: httpx.Client) -> None:
    ask(http, channel=CHANNEL)
    clip_id = rig.render_next().clip_id
    page = http.get(f"/channels/{CHANNEL}/clips", params={"after": 1_000_000}).json()
    assert [clip["clip"]["clip_id"] for clip in page["clips"]] == [clip_id]
    assert page["next_after"] < 1_000_000


@pytest.mark.parametrize("jump", [timedelta(hours=-1), timedelta(minutes=-10), timedelta(days=1)])
def test_new_clips_are_delivered_whatever_the_servers_clock_does(
    rig: ServerRig, http: httpx.Client, jump: timedelta
) -> None:
    ask(http, channel=CHANNEL)
    rig.render_next()
    after = http.get(f"/channels/{CHANNEL}/clips").json()["next_after"]
    rig.clock.ahead = jump
    ask(http, channel=CHANNEL, prompt="after the jump")
    rig.render_next()
    rig.clock.ahead = timedelta(0)
    page = http.get(f"/channels/{CHANNEL}/clips", params={"after": after}).json()
    assert [clip["prompt"] for clip in page["clips"]] == ["after the jump"]


def test_a_channel_names_its_next_clips_in_the_order_of_their_turns(
    rig: ServerRig, http: httpx.Client
) -> None:
    ids = [ask(http, channel=CHANNEL, prompt=f"cat {number}") for number in range(3)]
    ask(http, channel="another-show-0123456789", prompt="not ours")
    with rig.worker_store() as worker_store:
        rig.step(worker_store, rig.claim(worker_store), 2)
        answer = http.get(f"/channels/{CHANNEL}/clips")
    upcoming = ChannelClips.model_validate_json(answer.content).upcoming
    assert [(clip.prompt, clip.state, clip.stage) for clip in upcoming] == [
        ("cat 0", "running", "denoise"),
        ("cat 1", "queued", None),
        ("cat 2", "queued", None),
    ]
    assert upcoming[0].progress.step == 2
    assert not [job_id for job_id in ids if job_id in answer.text]


def test_who_asked_travels_from_the_request_to_the_record_and_the_channel(
    rig: ServerRig, http: httpx.Client
) -> None:
    job_id = ask(http, channel=CHANNEL, requested_by="  Mio \u202e<b> ")
    rig.render_next()
    ask(http, channel=CHANNEL, requested_by="yui")
    ask(http, channel=CHANNEL)

    channel = ChannelClips.model_validate(http.get(f"/channels/{CHANNEL}/clips").json())

    assert http.get(f"/jobs/{job_id}").json()["requested_by"] == "Mio <b>"
    assert [clip.requested_by for clip in channel.clips] == ["Mio <b>"]
    assert [clip.requested_by for clip in channel.upcoming] == ["yui", None]


def test_a_repeated_key_with_another_name_is_the_same_request(http: httpx.Client) -> None:
    body, headers = {"prompt": "a cat", "duration": 1}, {"Prefer": "respond-async", "Idempotency-Key": "k1"}
    first = http.post("/generate", json=body | {"requested_by": "mio"}, headers=headers).json()
    again = http.post("/generate", json=body | {"requested_by": "Mio_"}, headers=headers).json()
    assert again["job_id"] == first["job_id"]


def test_a_channel_opens_clips_and_never_their_jobs(rig: ServerRig, http: httpx.Client) -> None:
    job_id = ask(http, channel=CHANNEL)
    rig.render_next()
    text = http.get(f"/channels/{CHANNEL}/clips").text
    assert len(json.loads(text)["clips"]) == 1
    assert job_id not in text


def test_an_unknown_channel_is_empty_and_a_guessable_one_is_refused(http: httpx.Client) -> None:
    assert http.get("/channels/nobody-ever-used-this/clips").json()["clips"] == []
    assert http.get("/channels/short/clips").status_code == 422
    assert http.get(f"/channels/{CHANNEL}/clips?after=2026-11-23T20:00:00Z").status_code == 422


def test_warm_asks_a_worker_and_other_sites_may_not(rig: ServerRig, http: httpx.Client) -> None:
    answer = http.post("/warm")
    assert (answer.status_code, answer.json()["status"], rig.launcher.warmed) == (202, "ready", 1)
    assert http.post("/warm", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert http.post("/warm", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 202
    rig.launcher.refuses = True
    assert http.post("/warm").json()["code"] == "unavailable"
    assert rig.launcher.warmed == 2


def test_the_recipe_has_what_a_form_needs(http: httpx.Client) -> None:
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


def test_preflight_proves_the_whole_path(rig: ServerRig, http: httpx.Client) -> None:
    with rig.worker():
        code, output = run(http, "preflight", "--json")
    document = json.loads(output)
    assert (code, document["passed"]) == (0, True)
    names = [check["name"] for check in document["checks"]]
    assert names == ["health", "ready", "submit", "events", "clip", "ranges", "poster", "link", "receipt"]
    assert "signature" not in output


def test_preflight_stops_at_what_is_broken_and_names_it(rig: ServerRig, http: httpx.Client) -> None:
    rig.launcher.ready = rig.launcher.ready.model_copy(
        update={"ready": False, "status": "unavailable", "detail": "no weights"}
    )
    code, output = run(http, "preflight", "--json")
    last = json.loads(output)["checks"][-1]
    assert (code, last["name"], last["passed"]) == (1, "ready", False)
    assert "no weights" in last["detail"]


def test_preflight_sees_a_damaged_clip(tmp_path: Path) -> None:
    class DamagingClips(FolderClips):
        def publish(self, clip_id: str, rendered: RenderedClip) -> StoredClip:
            clip = super().publish(clip_id, rendered)
            for file in (tmp_path / "clips").glob(f"{clip_id}*.mp4"):
                file.write_bytes(file.read_bytes()[:-1] + b"!")
            return clip

    rig = ServerRig(tmp_path, clips=DamagingClips)
    with rig.serve() as http, rig.worker():
        code, output = run(http, "preflight", "--json")
    assert (code, json.loads(output)["checks"][-1]["name"]) == (1, "clip")


def test_watch_shows_the_numbers(rig: ServerRig, http: httpx.Client) -> None:
    ask(http)
    rig.render_next()
    code, output = run(http, "watch", "--once")
    assert code == 0
    assert re.search(r"success\s+100.0%\s+1 clips", output)
    assert re.search(r"Drawing\s+0.30\s+0.30\s+1", output)
    assert json.loads(run(http, "watch", "--json")[1])["succeeded"] == 1


def test_watch_warns_of_weights_and_of_a_budget_that_is_nearly_spent(
    rig: ServerRig, http: httpx.Client
) -> None:
    ask(http)
    cost = rig.render_next(weights_swapped("0fad780a534b")).cost
    assert cost is not None
    rig.studio.policy = replace(
        rig.studio.policy, budget_usd_per_day=cost.usd / 0.85, budget_usd_per_month=cost.usd / 0.5
    )
    code, output = run(http, "watch", "--once")
    assert code == 0
    assert re.search(r"today\s+\$\S+, 85% of \$\S+, nearly spent", output)
    assert re.search(r"this month\s+\$\S+, 50% of \$\S+\s*\n", output)
    assert re.search(r"weights\s+new weights \(0fad780a534b\)", output)


def test_report_writes_one_file(rig: ServerRig, http: httpx.Client, tmp_path: Path) -> None:
    ask(http)
    rig.render_next()
    file = tmp_path / "show.html"
    code, output = run(http, "report", "--out", str(file))
    assert (code, "1 clips" in output) == (0, True)
    assert file.read_text().count("<circle") == 1
    assert "data:image" not in file.read_text()

    for number in range(22):  # more than one page
        ask(http, channel=CHANNEL, prompt=f"cat {number} <i>", requested_by="mia", seed=number % 3)
        rig.render_next()
    code, _ = run(http, "report", "--out", str(file), "--channel", CHANNEL)
    assert code == 0
    assert file.read_text().count("data:image/jpeg;base64,/9j/") == 22
    assert "cat 21 &lt;i&gt;" in file.read_text()
    assert ", for mia" in file.read_text()


def test_warm_waits_until_a_worker_is_ready(rig: ServerRig, http: httpx.Client) -> None:
    assert run(http, "warm")[0] == 0
    rig.launcher.ready = rig.launcher.ready.model_copy(update={"status": "starting", "ready": False})
    assert run(http, "warm", "--timeout", "0")[0] == 6
    assert rig.launcher.warmed == 2
    rig.launcher.ready = not_ready(CheckpointError("a shard is missing; fetch it"))
    assert run(http, "warm", "--timeout", f"{10 * PATIENCE_S}") == (
        6,
        "unavailable: a shard is missing; fetch it\n",
    )
