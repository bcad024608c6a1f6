"""Long runs by hand, which pytest does not collect by itself: `make endurance`, about an hour.

A soak, hundreds of processes killed and stopped at random moments, and 10^5 fuzzed requests. Each test
prints its figures as one line of JSON.
"""

import contextlib
import json
import os
import random
import re
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, settings

from anime_studio.core.policy import Policy
from anime_studio.web.openapi import document
from integration.test_crashes import assert_whole, models_dir  # noqa: F401  a fixture
from support.local_server import LocalServer
from support.server_rig import PATIENCE_S, ServerRig

pytestmark = [pytest.mark.timeout(7200), pytest.mark.filterwarnings("ignore")]

CLIPS = int(os.environ.get("CLIPS", "1000"))
KILLS = int(os.environ.get("KILLS", "200"))
STOPS = int(os.environ.get("STOPS", "50"))
REQUESTS = int(os.environ.get("REQUESTS", "100000"))
OUTSTANDING = 8


@pytest.fixture
def server(tmp_path: Path, models_dir: Path) -> Iterator[LocalServer]:  # noqa: F811
    server = LocalServer(tmp_path, models_dir, hang_after_s=1.5, log_prompts=False)
    yield server
    server.kill()


def test_a_thousand_clips_leave_memory_and_descriptors_flat(server: LocalServer) -> None:
    server.start()
    open_jobs: deque[str] = deque()
    figures: list[dict[str, dict[str, float]]] = []
    for number in range(CLIPS):
        open_jobs.append(server.submit(f"clip {number}")["job_id"])
        if len(open_jobs) == OUTSTANDING:
            assert_whole(server, server.ended(open_jobs.popleft()))
        if number % (CLIPS // 10) == CLIPS // 10 - 1:
            figures.append({name: usage(pid) for name, pid in processes(server).items()})
    print(json.dumps(figures))
    assert len(server.logged("worker.spawned")) == 1
    for name in ("server", "worker"):
        settled, last = figures[2][name], figures[-1][name]
        assert last["memory_mib"] < settled["memory_mib"] * 1.1
        assert last["descriptors"] <= settled["descriptors"] + OUTSTANDING


def test_kills_at_random_moments_lose_and_double_nothing(server: LocalServer) -> None:
    chance = random.Random(20261126)

    def kill_one() -> None:
        if chance.random() < 0.5:
            server.stop(signal.SIGKILL)
            server.start()
        else:
            strike(newest_worker(server), signal.SIGKILL)

    rounds(server, KILLS, kill_one, chance)


def test_stops_at_random_moments_leave_nothing_stuck(server: LocalServer) -> None:
    chance = random.Random(20261127)
    rounds(server, STOPS, lambda: strike(newest_worker(server), signal.SIGSTOP), chance)


def rounds(server: LocalServer, count: int, disturb: Callable[[], None], chance: random.Random) -> None:
    """Disturb while jobs are accepted and rendered; in the end each accepted job has its one clip or says why."""
    server.start()
    accepted: list[str] = []
    for number in range(count):
        accepted += [server.submit(f"round {number}")["job_id"] for _ in range(chance.randint(0, 2))]
        if chance.random() < 0.5 and accepted:
            server.until(partial(begun, server, accepted[-1]), "a worker at work")
        time.sleep(chance.uniform(0, 0.8))
        disturb()
    jobs = [server.ended(job_id) for job_id in accepted]
    errors = Counter(job["error"]["code"] for job in jobs if job["error"])
    figures = {"jobs": len(jobs), "states": Counter(job["state"] for job in jobs), "errors": errors}
    print(json.dumps(figures | {"attempts": Counter(server.record(job).attempts for job in accepted)}))
    for job in jobs:
        if job["state"] == "succeeded":
            assert_whole(server, job)
        else:
            assert job["error"]["code"] in ("worker_died", "worker_hung")
            assert server.record(job["job_id"]).attempts == 3
    clips = {job["clip"]["clip_id"] for job in jobs if job["clip"]}
    assert len(clips) == figures["states"]["succeeded"]
    assert server.visible_clips() == clips
    assert server.http.get("/ready").status_code == 200


def begun(server: LocalServer, job_id: str) -> bool:
    return bool(server.job(job_id)["state"] != "queued")


def processes(server: LocalServer) -> dict[str, int]:
    return {"server": server.process.pid, "worker": newest_worker(server)}


def newest_worker(server: LocalServer) -> int:
    return int(server.until(lambda: server.logged("worker.spawned"), "a worker")[-1]["pid"])


def strike(pid: int, number: int) -> None:
    """Signal a worker of ours; one that has just ended needs no blow."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def usage(pid: int) -> dict[str, float]:
    status = Path(f"/proc/{pid}/status").read_text()
    resident = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    assert resident
    return {
        "memory_mib": round(int(resident[1]) / 1024, 1),
        "descriptors": len(list(Path(f"/proc/{pid}/fd").iterdir())),
    }


schema = schemathesis.openapi.from_dict(json.loads(document()))
OPERATIONS = schema.statistic.operations.total


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    rig = ServerRig(tmp_path_factory.mktemp("fuzz"), generate_wait_s=0.05, heartbeat_s=0.05)
    rig.policy = Policy(max_queued_jobs=1000)
    with rig.serve() as http, rig.worker():
        yield str(http.base_url)
        assert http.get("/health").status_code == 200


@schema.parametrize()
@settings(max_examples=max(1, REQUESTS // OPERATIONS), deadline=None, suppress_health_check=list(HealthCheck))
def test_no_request_makes_a_5xx(case: schemathesis.Case, fuzzed: str) -> None:
    answer = case.call(base_url=fuzzed, timeout=PATIENCE_S)
    assert answer.status_code < 500, answer.text
