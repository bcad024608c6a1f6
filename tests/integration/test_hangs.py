"""A worker that stops without dying (`kill -STOP`) holds up nobody for longer than its limit.

Real processes, real signals, real SQLite, the real engine on random weights.
"""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from test_crashes import alive, assert_whole, complete, models_dir  # noqa: F401  a fixture

from support.local_server import PATIENCE_S, LocalServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Iterator[LocalServer]:  # noqa: F811
    """One server; the first job of each worker may be silent for ten times `hang_after_s`."""
    server = LocalServer(tmp_path_factory.mktemp("hangs"), models_dir, hang_after_s=1.5)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def warmed_up(server: LocalServer) -> None:
    """End a job, so that the worker knows what each stage usually takes."""
    assert_whole(server, server.ended(server.submit("warm up")["job_id"]))


def hang_at(server: LocalServer, place: str, **body: object) -> tuple[str, int]:
    """Stop the worker at *place* of a new job; return the job's id and the worker's."""
    server.stop_worker_at(place)
    job_id = server.submit(f"hangs at {place}", **body)["job_id"]
    worker = server.waiting_worker()
    os.kill(worker, signal.SIGSTOP)
    server.let_workers_pass()
    return job_id, worker


@pytest.mark.parametrize("place", ["denoise", "decode", "store"])
def test_a_worker_stopped_at_any_stage_is_killed_and_its_job_runs_again(
    server: LocalServer, place: str
) -> None:
    warmed_up(server)
    job_id, worker = hang_at(server, place)
    behind = server.submit("behind it")["job_id"]
    assert_whole(server, server.ended(job_id))
    assert server.record(job_id).attempts == 2
    assert not alive(worker)
    assert_whole(server, server.ended(behind))
    line = server.logged("worker.hung")[-1]
    assert (line["pid"], line["stage"]) == (worker, place)


def test_a_worker_stopped_while_it_loads_is_killed_and_the_next_one_works(server: LocalServer) -> None:
    warmed_up(server)
    spawned = len(server.logged("worker.spawned"))
    os.kill(server.logged("worker.spawned")[-1]["pid"], signal.SIGKILL)
    server.until(lambda: len(server.logged("worker.spawned")) > spawned, "the next worker")
    loading = server.logged("worker.spawned")[-1]["pid"]
    os.kill(loading, signal.SIGSTOP)
    job_id = server.submit("waits for a worker")["job_id"]
    assert_whole(server, server.ended(job_id))
    assert not alive(loading)
    assert server.logged("worker.hung")[-1]["pid"] == loading


def test_its_silence_can_be_watched_and_a_cancel_ends_within_the_limit(server: LocalServer) -> None:
    warmed_up(server)
    job_id, _ = hang_at(server, "denoise")
    assert server.http.delete(f"/jobs/{job_id}").status_code == 202
    ages: list[float] = []

    def silent() -> bool:
        status = server.http.get("/status", headers={"Accept": "application/json"}).json()
        ages.append(status["readiness"]["progress_age_s"] or 0.0)
        return ages[-1] >= 1.0 or server.job(job_id)["state"] != "running"

    server.until(silent, "the worker's silence")
    ended = server.ended(job_id)
    assert (ended["state"], ended["error"]["code"]) == ("cancelled", "job_cancelled")
    assert server.record(job_id).attempts == 1
    assert max(ages) >= 1.0
    assert "anime_worker_progress_age_seconds" in server.http.get("/metrics").text


def test_deadlines_end_a_running_and_a_queued_job_before_their_worker_is_found_to_hang(
    tmp_path: Path,
    models_dir: Path,  # noqa: F811
) -> None:
    server = LocalServer(tmp_path, models_dir, hang_after_s=3600)
    try:
        server.start()
        warmed_up(server)
        running, worker = hang_at(server, "denoise", deadline_s=6)
        queued = server.submit("queued behind it", deadline_s=5)["job_id"]
        for job_id, where in ((running, "at denoise"), (queued, "in the queue")):
            ended = server.ended(job_id)
            assert (ended["state"], ended["error"]["code"]) == ("failed", "deadline_exceeded")
            assert where in ended["error"]["detail"]
        os.kill(worker, signal.SIGCONT)  # it finds out, and works on
        assert_whole(server, server.ended(server.submit("after it")["job_id"]))
        assert server.job(running)["error"]["code"] == "deadline_exceeded"
        assert not server.logged("worker.hung")
        lines = [line["job_id"] for line in server.logged("job.finished")]
        assert (lines.count(running), lines.count(queued)) == (1, 1)
    finally:
        server.kill()


def test_a_job_that_hangs_three_workers_fails_with_its_own_code(server: LocalServer) -> None:
    warmed_up(server)
    server.stop_worker_at("denoise")
    job_id = server.submit("hangs each worker")["job_id"]
    for _ in range(3):
        os.kill(server.waiting_worker(), signal.SIGSTOP)
    failed = server.ended(job_id)
    server.let_workers_pass()
    assert (failed["state"], failed["error"]["code"]) == ("failed", "worker_hung")
    assert failed["error"]["retryable"]
    assert job_id in failed["error"]["detail"]
    assert_whole(server, server.ended(server.submit("harmless")["job_id"]))


def test_the_next_server_ends_the_stopped_worker_of_a_killed_one(server: LocalServer) -> None:
    warmed_up(server)
    job_id, worker = hang_at(server, "denoise")
    assert (server.data / "worker.lock").read_text() == str(worker)
    server.stop(signal.SIGKILL)
    assert alive(worker)
    server.start()
    assert_whole(server, server.ended(job_id))
    assert not alive(worker)
    assert [line["pid"] for line in server.logged("worker.killed")] == [worker]


def test_a_stopped_server_that_goes_on_blames_no_worker(server: LocalServer) -> None:
    warmed_up(server)
    hung = len(server.logged("worker.hung"))
    server.process.send_signal(signal.SIGSTOP)
    time.sleep(4)  # longer than the limit: this is the time that must not count
    server.process.send_signal(signal.SIGCONT)
    assert httpx.get(f"{server.http.base_url}/health", timeout=PATIENCE_S).status_code == 200
    warmed_up(server)
    assert len(server.logged("worker.hung")) == hung


def test_what_server_and_worker_write_is_their_owners_alone(server: LocalServer) -> None:
    warmed_up(server)
    written = [*server.data.rglob("*"), server.data]
    assert {path.name for path in written} >= {"jobs.sqlite3", "jobs.sqlite3-wal", "clips", "worker.lock"}
    assert [path for path in written if path.stat().st_mode & 0o077] == []
