"""The operator's controls over a real socket: who is let in, what is seen, what each act does, and what stays refused."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from anime_studio.client import StudioClient, StudioError
from common.operator import OperatorAction, OperatorVerb, OperatorView
from common.schemas import JobState
from support.server_rig import PATIENCE_S, ServerRig

KEY = "operator-" + "k" * 32
AS_OPERATOR = {"Authorization": f"Bearer {KEY}"}
CHANNEL = "show-0123456789abcdef"


@pytest.fixture
def rig(tmp_path: Path) -> ServerRig:
    rig = ServerRig(tmp_path)
    rig.policy = replace(rig.policy, operator_key=KEY)
    return rig


@pytest.fixture
def http(rig: ServerRig) -> Iterator[httpx.Client]:
    with rig.serve() as client:
        yield client


def ask(http: httpx.Client, **fields: object) -> httpx.Response:
    body = {"prompt": "a cat", "duration": 1} | fields
    return http.post("/generate", json=body, headers={"Prefer": "respond-async"})


def act(http: httpx.Client, action: str, **fields: object) -> dict[str, object]:
    answer = http.post("/operator", json={"action": action} | fields, headers=AS_OPERATOR)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def see(http: httpx.Client) -> OperatorView:
    return OperatorView.model_validate(http.get("/operator", headers=AS_OPERATOR).json())


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": "Bearer ключ".encode()},
        {"Authorization": KEY},
    ],
)
def test_without_the_key_nothing_is_seen_or_done_even_from_this_machine(
    http: httpx.Client, headers: dict[str, bytes | str]
) -> None:
    ask(http, prompt="a secret wish")
    for answer in (
        http.get("/operator", headers=headers),
        http.post("/operator", headers=headers, json={"action": "clear"}),
        http.get(f"/operator?key={KEY}", headers=headers),
    ):
        assert (answer.status_code, answer.json()["code"]) == (401, "operator_only")
        assert "secret wish" not in answer.text
    assert http.get("/ready").json()["queued"] == 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:8017"}, 200),
        ({"Host": "studio.example"}, 401),
        ({"X-Forwarded-For": "203.0.113.9"}, 401),
        ({"Forwarded": "for=203.0.113.9"}, 401),
        ({"CF-Connecting-IP": "203.0.113.9"}, 401),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "https://evil.example"}, 403),
    ],
)
def test_without_a_key_in_the_settings_only_this_machine_is_let_in(
    tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    rig = ServerRig(tmp_path)
    with rig.serve() as http:
        assert http.get("/operator", headers=headers).status_code == status


def test_a_server_for_others_lets_nobody_in_without_a_key(tmp_path: Path) -> None:
    with ServerRig(tmp_path, operator_on_loopback=False).serve() as http:
        answer = http.get("/operator")
    assert answer.status_code == 401
    assert "anime-studio keys operator" in answer.json()["detail"]


def test_the_operator_sees_whose_prompt_is_drawn_and_what_waits(rig: ServerRig, http: httpx.Client) -> None:
    ask(http, prompt="done", requested_by="yui", channel=CHANNEL)
    rig.render_next()
    ask(http, prompt="drawn", requested_by="mio", channel=CHANNEL)
    ask(http, prompt="waits")
    http.get(f"/channels/{CHANNEL}/clips")
    with rig.worker_store() as worker_store:
        job = rig.step(worker_store, rig.claim(worker_store), 1)
        rig.clock.ahead = timedelta(seconds=30)
        view = see(http)
        running, waiting, ended = view.jobs
    assert (running.prompt, running.requested_by, running.stage, running.progress.step) == (
        "drawn",
        "mio",
        "denoise",
        1,
    )
    assert running.job_id == job.job_id
    assert running.age_s >= 30
    assert running.usd is not None and running.usd > 0.005, "30 s of an L4"
    assert (waiting.prompt, waiting.state, waiting.usd) == ("waits", JobState.QUEUED, None)
    assert (ended.prompt, ended.state, ended.hidden) == ("done", JobState.SUCCEEDED, False)
    assert ended.url is not None and http.get(ended.url).status_code == 200
    (channel,) = view.channels
    assert (channel.channel, channel.viewers, channel.silent) == (CHANNEL, 1, False)


def test_cancel_takes_one_job_or_all_of_one_viewer_and_clear_all_that_wait(
    rig: ServerRig, http: httpx.Client
) -> None:
    ids = [ask(http, requested_by=name).json()["job_id"] for name in ("Mio", "troll", "Troll", "yui")]
    with rig.worker_store() as worker_store:
        rig.claim(worker_store)
        assert act(http, "cancel", job_id=ids[0])["changed"] == 1
        assert worker_store.cancel_requested(ids[0])
        assert act(http, "cancel", requested_by="TROLL")["changed"] == 2
        assert act(http, "cancel", requested_by="nobody")["changed"] == 0
        assert act(http, "clear")["changed"] == 1
        assert act(http, "clear")["changed"] == 0
    ended = [rig.record(job_id) for job_id in ids[1:]]
    assert {job.state for job in ended} == {JobState.CANCELLED}
    assert all("by the operator" in job.error.detail for job in ended if job.error)
    assert (
        http.post(
            "/operator", json={"action": "cancel", "job_id": "j_" + "0" * 32}, headers=AS_OPERATOR
        ).status_code
        == 404
    )


def test_a_pause_refuses_new_orders_lets_old_ones_go_on_and_outlives_a_restart(
    rig: ServerRig, http: httpx.Client
) -> None:
    first = {"Idempotency-Key": "k", "Prefer": "respond-async"}
    body = {"prompt": "a cat", "duration": 1}
    job_id = http.post("/generate", json=body, headers=first).json()["job_id"]
    assert act(http, "pause")["paused"] is True
    refused = ask(http)
    assert (refused.status_code, refused.json()["code"], refused.json()["retryable"]) == (
        503,
        "orders_paused",
        True,
    )
    assert http.get("/ready").json()["code"] == "orders_paused"
    assert http.post("/generate", json=body, headers=first).json()["job_id"] == job_id, "the order of before"
    assert rig.render_next().job_id == job_id
    with StudioClient(str(http.base_url)) as studio:
        assert not studio.ready().ready
        studio.operate(OperatorAction(action=OperatorVerb.RESUME), KEY)
    assert ask(http).status_code == 202


def test_a_pause_is_in_the_database_for_the_next_server(tmp_path: Path) -> None:
    for expected in (False, True):
        rig = ServerRig(tmp_path)
        with rig.serve() as http:
            assert http.get("/operator").json()["paused"] is expected
            http.post("/operator", json={"action": "pause"})


def test_a_hidden_clip_leaves_its_channel_and_its_owner_cannot_bring_it_back(
    rig: ServerRig, http: httpx.Client
) -> None:
    job_id = ask(http, channel=CHANNEL).json()["job_id"]
    clip_id = rig.render_next().clip_id
    act(http, "hide", clip_id=clip_id)
    channel = http.get(f"/channels/{CHANNEL}/clips").json()
    assert (channel["clips"], channel["hidden"]) == ([], [clip_id])
    assert see(http).jobs[0].hidden
    http.post(f"/jobs/{job_id}/show")
    assert http.get(f"/channels/{CHANNEL}/clips").json()["clips"] == []
    act(http, "show", clip_id=clip_id)
    assert [clip["clip"]["clip_id"] for clip in http.get(f"/channels/{CHANNEL}/clips").json()["clips"]] == [
        clip_id
    ]
    gone = http.post("/operator", json={"action": "hide", "clip_id": "c_" + "0" * 32}, headers=AS_OPERATOR)
    assert (gone.status_code, gone.json()["code"]) == (410, "clip_gone")


@pytest.mark.parametrize(
    "body",
    [
        {"action": "explode"},
        {"action": "cancel"},
        {"action": "cancel", "job_id": "j_" + "0" * 32, "requested_by": "mio"},
        {"action": "pause", "job_id": "j_" + "0" * 32},
        {"action": "hide", "job_id": "j_" + "0" * 32},
        {"action": "hide", "clip_id": "../etc"},
    ],
)
def test_an_act_that_does_not_name_its_object_is_refused(http: httpx.Client, body: dict[str, str]) -> None:
    assert http.post("/operator", json=body, headers=AS_OPERATOR).status_code == 422


def test_a_form_of_another_site_cannot_pause_the_show_of_an_operator_without_a_key(tmp_path: Path) -> None:
    with ServerRig(tmp_path).serve() as http:
        form = http.post("/operator", content='{"action": "pause"}', headers={"Content-Type": "text/plain"})
        assert form.status_code == 415
        assert http.get("/operator").json()["paused"] is False


def test_past_the_days_budget_a_job_is_refused_before_a_gpu_wakes_and_the_next_day_taken(
    rig: ServerRig, http: httpx.Client
) -> None:
    rig.clock.stop_at(datetime(2026, 11, 27, 22, 0, tzinfo=UTC))
    ask(http)
    cost = rig.render_next().cost
    assert cost is not None
    studio = rig.studio
    studio.policy = replace(studio.policy, budget_usd_per_day=cost.usd * 2.1, budget_usd_per_month=1.0)
    assert ask(http).status_code == 202, "one more fits"
    rig.render_next()
    launched = len(rig.launcher.launched)
    refused = ask(http).json()
    assert refused["code"] == "budget_spent"
    assert "2026-11-28 00:00 UTC" in refused["detail"]
    assert refused["retry_after_s"] == 7200
    assert len(rig.launcher.launched) == launched
    assert http.get("/ready").json()["code"] == "budget_spent"
    (used,) = re.findall(r'anime_budget_used_ratio\{period="day"\} (\S+)', http.get("/metrics").text)
    assert float(used) == pytest.approx(2 / 2.1)
    spend = http.get("/status").json()["spend"]
    assert spend["today_usd"] == pytest.approx(2 * cost.usd)
    rig.clock.stop_at(datetime(2026, 11, 28, 0, 0, 1, tzinfo=UTC))
    assert ask(http).status_code == 202
    rig.render_next()
    studio.policy = replace(studio.policy, budget_usd_per_month=cost.usd * 3.1)
    assert "2026-12-01 00:00 UTC" in ask(http).json()["detail"]


def test_the_commands_do_what_the_routes_do(rig: ServerRig, http: httpx.Client) -> None:
    ask(http, prompt="a cat", requested_by="mio")

    def run(*arguments: str, key: str = KEY) -> tuple[int, str]:
        command = [
            sys.executable,
            "-m",
            "anime_studio.cli",
            "operator",
            *arguments,
            "--url",
            str(http.base_url),
        ]
        environment = {"ANIME_STUDIO_OPERATOR_KEY": key, "PATH": "/usr/bin:/bin"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, env=environment)
        assert KEY not in done.stdout + done.stderr
        return done.returncode, done.stdout + done.stderr

    code, listed = run("list")
    assert code == 0
    assert "mio" in listed and "1 waiting" in listed
    assert run("pause")[0] == 0
    assert json.loads(run("list", "--json")[1])["paused"] is True
    assert run("cancel", "--by", "mio")[1].startswith("1 job cancelled")
    assert run("resume")[0] == 0
    assert run("cancel")[0] == 2
    assert run("hide", "nonsense")[0] == 2
    code, words = run("list", key="wrong-" + "x" * 20)
    assert (code, "operator_only" in words) == (3, True)


def test_the_client_says_what_the_server_refused(http: httpx.Client) -> None:
    with StudioClient(str(http.base_url)) as studio, pytest.raises(StudioError, match="operator's key"):
        studio.operator_view()
