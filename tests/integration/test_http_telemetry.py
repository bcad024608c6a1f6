"""`/metrics` and `/telemetry/signals` over a real socket."""

import re
from datetime import timedelta

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from anime_studio.core.pricing import receipt
from common.schemas import Timings
from support.server_rig import L4, ServerRig

PROMPT = {"prompt": "a fox"}
AT_ONCE = {"Prefer": "respond-async"}
SIZE = (("resolution", "480p"),)


def scrape(http: httpx.Client) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    answer = http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(http: httpx.Client, name: str, **labels: str) -> float:
    return scrape(http).get((name, tuple(sorted(labels.items()))), 0.0)


def submit(http: httpx.Client) -> str:
    return http.post("/generate", json=PROMPT, headers=AT_ONCE).json()["job_id"]


def test_each_job_is_counted_once_however_often_it_is_read(rig, http):
    job_id = submit(http)
    rig.render_next()
    submit(http)
    rig.fail_next()
    http.delete(f"/jobs/{submit(http)}")
    for _ in range(3):
        http.get(f"/jobs/{job_id}")
        seen = scrape(http)

    def count(outcome: str, code: str) -> float:
        return seen["anime_generate_requests_total", (("error_code", code), ("outcome", outcome))]

    assert (
        count("succeeded", ""),
        count("failed", "frames_invalid"),
        count("cancelled", "job_cancelled"),
    ) == (1, 1, 1)
    assert seen["anime_generate_duration_seconds_count", (*SIZE, ("stage", "denoise"))] == 1
    assert seen["anime_generate_duration_seconds_sum", (*SIZE, ("stage", "start"))] == 1.5
    assert seen["anime_generate_duration_seconds_count", (*SIZE, ("stage", "total"))] == 3
    assert seen["anime_queue_wait_seconds_count", ()] == 2  # the third never left the queue
    assert seen["anime_cold_starts_total", (("start_kind", "cold"),)] == 1
    timings = Timings(start_s=1.5, text_s=0.01, denoise_s=0.3, decode_s=0.1, store_s=0.02)
    assert seen["anime_estimated_cost_usd_total", ()] == pytest.approx(receipt(timings, L4).usd)


@pytest.mark.parametrize("jump", [timedelta(hours=1), timedelta(hours=-1), timedelta(days=1)])
def test_each_end_is_counted_once_wherever_the_clock_jumps(rig, http, jump):
    submit(http)
    rig.render_next()
    name = "anime_generate_requests_total"
    assert value(http, name, outcome="succeeded", error_code="") == 1
    rig.clock.ahead += jump
    assert value(http, name, outcome="succeeded", error_code="") == 1
    submit(http)
    rig.render_next()

    assert value(http, name, outcome="succeeded", error_code="") == 2


def test_jobs_of_before_this_process_are_not_counted(tmp_path):
    first = ServerRig(tmp_path)
    with first.serve() as http:
        submit(http)
        first.render_next()
    with ServerRig(tmp_path).serve() as http:
        assert value(http, "anime_generate_requests_total", outcome="succeeded", error_code="") == 0


def test_refusals_are_counted_by_code(rig, http):
    http.post("/generate", json={})
    http.post("/generate", content=b"{", headers={"Content-Type": "application/json"})
    http.post("/generate", json=PROMPT | {"duration": 30})
    for _ in range(rig.policy.max_queued_jobs + 1):
        http.post("/generate", json=PROMPT, headers=AT_ONCE)

    seen = scrape(http)
    for code in ("invalid_request", "malformed_json", "unsupported_by_recipe", "queue_full"):
        assert seen["anime_generate_requests_total", (("error_code", code), ("outcome", "refused"))] == 1


def test_gauges_show_the_queue_as_it_is(rig, http):
    submit(http)
    submit(http)
    with rig.worker_store() as worker_store:
        rig.claim(worker_store)
        assert (value(http, "anime_backlog"), value(http, "anime_jobs_in_progress")) == (1, 1)


def test_outputs_are_counted_by_result(rig, http):
    job_id = submit(http)
    rig.render_next()
    clip = http.get(f"/jobs/{job_id}").json()["clip"]
    http.get(clip["url"])
    http.get(clip["url"], headers={"Range": "bytes=0-1"})
    http.get(clip["url"], headers={"Range": "bytes=99999999-"})
    http.get(clip["url"], headers={"If-None-Match": f'"{clip["sha256"]}"'})
    http.get(clip["url"].split("?")[0])
    rig.clock.ahead += timedelta(hours=1)
    http.get(clip["url"])

    seen = scrape(http)
    for result in ("whole", "part", "range_not_satisfiable", "not_modified", "url_invalid", "url_expired"):
        assert seen["anime_output_requests_total", (("result", result),)] == 1, result


def test_no_id_and_no_path_is_a_label(rig, http):
    job_id = submit(http)
    http.get(f"/jobs/{job_id}")
    http.get("/made/up/path")
    http.request("BREW", "/generate")
    text = http.get("/metrics").text

    assert not re.search(r"[jcr]_[0-9a-f]{8}", text)
    assert "made" not in text
    assert "BREW" not in text
    assert 'route="/jobs/{job_id}"' in text
    assert 'route="(unmatched)"' in text


def test_the_text_starts_with_whose_series_they_are(http):
    assert http.get("/metrics").text.startswith("# Series of one process.")


def test_signals_are_counted_by_kind(http):
    batch = [{"kind": "fallback_played", "source": "obs"}] * 2 + [
        {"kind": "queue_depth", "source": "bot", "value": 3}
    ]
    answer = http.post("/telemetry/signals", json={"signals": batch})

    assert (answer.status_code, answer.json()) == (202, {"accepted": 3})
    assert value(http, "anime_client_signals_total", kind="fallback_played") == 2
    assert value(http, "anime_client_signals_total", kind="queue_depth") == 1


@pytest.mark.parametrize("body", [{}, {"signals": []}, {"signals": [{"kind": "made_up", "source": "obs"}]}])
def test_other_signals_are_a_problem(http, body):
    answer = http.post("/telemetry/signals", json=body)

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
