"""The machine's clock jumps under a running server and its worker: nothing is lost, refused, hidden or deleted."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.local_server import LocalServer
from support.moved_clock import LIBRARIES, MovedClock

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not LIBRARIES, reason="libfaketime is not installed; on Debian: apt-get install faketime"
    ),
]

CHANNEL = "show-0123456789abcdef"


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> MovedClock:
    return MovedClock(tmp_path_factory.mktemp("clock") / "clock")


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, clock: MovedClock
) -> Iterator[LocalServer]:
    server = LocalServer(tmp_path_factory.mktemp("server"), tiny_checkpoint.parent.parent)
    server.environment |= clock.environment
    try:
        server.start()
        server.until(lambda: server.http.get("/ready").status_code == 200, "the worker")
        yield server
    finally:
        server.kill()


def clips_after(server: LocalServer, after: int | None) -> dict[str, Any]:
    query = {} if after is None else {"after": after}
    answer = server.http.get(f"/channels/{CHANNEL}/clips", params=query)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def counted(server: LocalServer) -> float:
    text = server.http.get("/metrics").text
    lines = [line for line in text.splitlines() if line.startswith("anime_generate_requests_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines if 'outcome="succeeded"' in line)


def now_of(server: LocalServer) -> datetime:
    return datetime.fromisoformat(
        server.http.get("/status", headers={"Accept": "application/json"}).json()["now"]
    )


@pytest.mark.parametrize("shift", ["-10m", "-1h", "+1d"])
def test_a_clock_that_jumps_during_a_job_loses_and_hides_nothing(
    server: LocalServer, clock: MovedClock, shift: str
) -> None:
    first = server.ended(server.submit("before", channel=CHANNEL)["job_id"])
    page = clips_after(server, None)
    assert page["clips"][-1]["prompt"] == "before"
    counted_before = counted(server)
    before = now_of(server)

    server.stop_worker_at("denoise")
    during = server.submit("during", channel=CHANNEL, deadline_s=3000)["job_id"]
    server.waiting_worker()
    clock.move(shift)
    assert abs(now_of(server) - before) > timedelta(minutes=9)  # the server sees it
    queued = server.submit("after", channel=CHANNEL, deadline_s=3000)
    assert queued["progress"]["eta_s"] >= 0
    server.let_workers_pass()
    for job_id in (during, queued["job_id"]):
        ended = server.ended(job_id)
        assert ended["state"] == "succeeded", ended["error"]
        assert all(seconds is None or seconds < 300 for seconds in ended["timings"].values()), ended[
            "timings"
        ]
    assert server.http.get("/ready").json()["eta_s"] >= 0

    page = clips_after(server, page["next_after"])
    assert [clip["prompt"] for clip in page["clips"]] == ["during", "after"]
    assert counted(server) == counted_before + 2
    clock.move("+0")
    again = server.ended(server.submit("right again", channel=CHANNEL)["job_id"])
    assert [clip["prompt"] for clip in clips_after(server, page["next_after"])["clips"]] == ["right again"]
    for job in (first, again):
        assert httpx.get(server.job(job["job_id"])["clip"]["url"]).status_code == 200


def test_a_day_ahead_deletes_no_clip_even_if_the_worker_starts_in_it(
    server: LocalServer, clock: MovedClock
) -> None:
    job = server.ended(server.submit("of a live show")["job_id"])
    clock.move("+2d")  # the clip is older than `clip_ttl_s` now
    assert server.stop() == 0
    server.start()  # the first thing a worker does is to sweep
    server.ended(server.submit("drawn after the sweep")["job_id"])
    clock.move("+0")
    assert httpx.get(server.job(job["job_id"])["clip"]["url"]).status_code == 200
