"""`kill -9` of either process at any moment loses nothing.

Real processes, real SQLite, the real engine on random weights. Only the places where the
worker waits for its death are the tests' own.
"""

import contextlib
import hashlib
import io
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import httpx
import pytest

from anime_studio.checkpoints.manifest import COMPLETE, Manifest
from anime_studio.core.recipes import TINY_RANDOM
from anime_studio.engine.loading.tiny_random import write_tiny_random
from support.disks import small_disk_at
from support.local_server import PATIENCE_S, LocalServer

pytestmark = pytest.mark.slow

PLACES = ("starting", "text", "denoise", "decode", "store", "stored")


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    checkpoint = write_tiny_random(folder / TINY_RANDOM.name / TINY_RANDOM.revision)
    complete(checkpoint)
    return folder


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Iterator[LocalServer]:
    """One server whose worker dies again and again."""
    server = LocalServer(tmp_path_factory.mktemp("shared"), models_dir)
    try:
        server.start()
        yield server
        assert server.stop() == 0
    finally:
        server.kill()


@pytest.fixture
def server(tmp_path: Path, models_dir: Path) -> Iterator[LocalServer]:
    """A server of the test's own, started by the test."""
    server = LocalServer(tmp_path, models_dir)
    yield server
    server.kill()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk_at(tmp_path / "disk", "1500k") as mount:
        yield mount


def complete(checkpoint: Path) -> None:
    Manifest.of(checkpoint).write(checkpoint)
    (checkpoint / COMPLETE).touch()


def alive(process_id: int) -> bool:
    """Whether it runs; one that ended may still be listed where nobody collects orphans, as in a container."""
    stat = Path(f"/proc/{process_id}/stat")
    try:
        os.kill(process_id, 0)
        return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def assert_whole(server: LocalServer, job: dict[str, Any]) -> None:
    """The clip plays: its bytes are those promised, its frames those asked for, and nothing else lies around."""
    assert job["state"] == "succeeded", job["error"]
    clip = job["clip"]
    content = httpx.get(clip["url"]).content
    assert hashlib.sha256(content).hexdigest() == clip["sha256"]
    with av.open(io.BytesIO(content)) as video:
        assert sum(1 for _ in video.decode(video=0)) == job["request"]["num_frames"] == clip["num_frames"]
    assert httpx.get(clip["poster_url"]).content.startswith(b"\xff\xd8")
    assert len(list((server.data / "clips").glob(f"{clip['clip_id']}*"))) == 3
    assert not list(
        (server.data / "clips").glob(f"{clip['clip_id']}*.partial")
    )  # the next job may be storing its own
    assert not list((server.data / "scratch").glob(f"{job['job_id']}*"))


@pytest.mark.parametrize("place", PLACES)
def test_a_worker_killed_at_any_stage_loses_nothing(shared: LocalServer, place: str) -> None:
    shared.stop_worker_at(place)
    accepted, behind = shared.submit(), shared.submit("a dog behind it")
    worker = shared.waiting_worker()
    running = shared.job(accepted["job_id"])
    clip_id = shared.record(accepted["job_id"]).clip_id
    assert (running["state"], running["stage"]) == ("running", place.replace("stored", "store"))
    assert running["clip"] is None
    assert (clip_id in shared.visible_clips()) == (place == "stored")

    os.kill(worker, signal.SIGKILL)
    shared.let_workers_pass()
    job = shared.ended(accepted["job_id"])
    assert_whole(shared, job)
    assert job["clip"]["clip_id"] == clip_id
    assert shared.record(job["job_id"]).attempts == 2
    assert job["start_kind"] == "cold"
    assert_whole(shared, shared.ended(behind["job_id"]))


def test_a_job_that_kills_three_workers_fails_and_the_next_one_is_rendered(shared: LocalServer) -> None:
    shared.stop_worker_at("denoise")
    deadly = shared.submit("deadly")
    for _ in range(3):
        os.kill(shared.waiting_worker(), signal.SIGKILL)
    harmless = shared.submit("harmless")
    failed = shared.ended(deadly["job_id"])
    shared.let_workers_pass()
    assert failed["error"]["code"] == "worker_died"
    assert failed["error"]["retryable"]
    assert deadly["job_id"] in failed["error"]["detail"]
    assert_whole(shared, shared.ended(harmless["job_id"]))
    (line,) = [line for line in shared.logged("job.finished") if line["job_id"] == deadly["job_id"]]
    assert (line["error_code"], line["attempts"]) == ("worker_died", 3)
    assert "signal 9" in shared.logged("worker.exited")[-1]["how"]


def test_a_truncated_clip_is_gone_and_named_in_the_log(shared: LocalServer) -> None:
    job = shared.ended(shared.submit("soon broken")["job_id"])
    assert_whole(shared, job)
    (video,) = (shared.data / "clips").glob(f"{job['clip']['clip_id']}*.mp4")
    os.truncate(video, job["clip"]["size_bytes"] // 2)
    answer = httpx.get(job["clip"]["url"])
    assert (answer.status_code, answer.json()["code"]) == (410, "clip_gone")
    assert str(video) in [line["file"] for line in shared.logged("clip.damaged")]


def test_a_cancel_reaches_the_worker(shared: LocalServer) -> None:
    shared.stop_worker_at("denoise")
    job = shared.submit("cancelled")
    shared.waiting_worker()
    assert shared.http.delete(f"/jobs/{job['job_id']}").status_code in (200, 202)
    shared.let_workers_pass()
    ended = shared.ended(job["job_id"])
    assert (ended["state"], ended["error"]["code"]) == ("cancelled", "job_cancelled")
    assert shared.record(job["job_id"]).clip_id not in shared.visible_clips()


def test_no_log_line_holds_a_signature_or_a_prompt(shared: LocalServer) -> None:
    job = shared.ended(shared.submit("a secret between us")["job_id"])
    assert_whole(shared, job)
    signature = httpx.URL(job["clip"]["url"]).params["signature"]
    log = shared.log_file.read_text()
    assert job["job_id"] in log
    assert signature not in log
    assert "signature=" not in log
    assert "a secret between us" not in log


def test_a_second_server_on_the_folder_says_so(shared: LocalServer) -> None:
    second = shared.spawn()
    assert second.wait(PATIENCE_S) != 0
    message = f"another server (process {shared.process.pid}) already uses {shared.data}"
    assert message in shared.log_file.read_text()
    assert shared.http.get("/health").status_code == 200


def test_a_killed_server_loses_no_acknowledged_job_and_leaves_no_worker(server: LocalServer) -> None:
    server.start()
    assert server.http.get("/ready").status_code == 503
    assert server.http.get("/health").status_code == 200
    server.stop_worker_at("denoise")
    jobs = [server.submit(f"cat {number}") for number in range(3)]
    worker = server.waiting_worker()
    server.stop(signal.SIGKILL)
    server.let_workers_pass()
    server.until(lambda: not alive(worker), "the orphaned worker to go")
    requeued = server.record(jobs[0]["job_id"])
    assert (requeued.state, requeued.attempts) == ("queued", 0)

    server.start()
    for job in jobs:
        assert_whole(server, server.ended(job["job_id"]))
        assert server.record(job["job_id"]).attempts == 1
    assert server.http.get("/ready").status_code == 200


def test_servers_killed_at_random_moments_lose_no_acknowledged_job(server: LocalServer) -> None:
    chance = random.Random(20261123)
    accepted: dict[str, str] = {}
    for round_number in range(4):
        server.start()
        deadline = time.monotonic() + chance.uniform(0.05, 0.5)
        while time.monotonic() < deadline:
            job = (
                server.submit(f"{round_number}-{len(accepted)}")
                if len(accepted) < 8 * (round_number + 1)
                else None
            )
            if job:
                accepted[job["job_id"]] = job["request"]["prompt"]
        server.stop(signal.SIGKILL)
    server.start()
    assert {job_id: server.job(job_id)["request"]["prompt"] for job_id in accepted} == accepted
    states = {server.ended(job_id)["state"] for job_id in accepted}
    assert states == {"succeeded"}


def test_a_stopped_server_requeues_its_job_closes_streams_and_exits_with_zero(server: LocalServer) -> None:
    server.start()
    server.stop_worker_at("text")
    job = server.submit()
    worker = server.waiting_worker()
    with httpx.stream("GET", job["links"]["events"], timeout=PATIENCE_S) as stream:
        server.process.send_signal(signal.SIGTERM)
        assert "starting" in "".join(stream.iter_text())  # the stream ends by itself, whole
    server.until((server.crash_dir / "stopping").exists, "the worker to know that it must stop")
    server.let_workers_pass()
    assert server.process.wait(PATIENCE_S) == 0
    assert not alive(worker)
    waiting = server.record(job["job_id"])
    assert (waiting.state, waiting.attempts) == ("queued", 0), waiting.error
    assert server.logged("job.requeued")
    assert server.logged("server.stopped")


def test_ctrl_c_while_the_worker_still_loads_ends_both_at_once(server: LocalServer) -> None:
    server.start()
    job = server.submit()
    assert server.stop(signal.SIGINT) == 0
    assert not alive(server.logged("worker.spawned")[0]["pid"])
    assert server.record(job["job_id"]).state == "queued"


def test_a_full_disk_is_reported_and_work_goes_on_once_there_is_room(
    small_disk: Path, server: LocalServer
) -> None:
    server.keep_data_in(small_disk / "data")
    server.start()
    assert_whole(server, server.ended(server.submit()["job_id"]))
    filler = small_disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 512)

    answer = server.post("as long as a prompt may be " * 70)
    while answer.status_code == 202:  # SQLite has a few pages left
        answer = server.post("as long as a prompt may be " * 70)
    assert (answer.status_code, answer.json()["code"]) == (507, "disk_full")
    assert answer.json()["retryable"]
    assert "data/jobs.sqlite3" in answer.json()["detail"]
    assert str(small_disk) not in answer.json()["detail"]
    assert server.http.get("/health").status_code == 200
    worker = server.logged("worker.spawned")

    filler.unlink()
    assert_whole(server, server.ended(server.submit("room again")["job_id"]))
    assert server.logged("worker.spawned") == worker  # the same worker: it waited, it did not die
    assert server.stop() == 0


def test_missing_weights_are_named_with_their_command_until_they_are_there(
    server: LocalServer, models_dir: Path, tmp_path: Path
) -> None:
    checkpoint = Path(TINY_RANDOM.name, TINY_RANDOM.revision)
    server.environment["ANIME_STUDIO_MODELS_DIR"] = str(tmp_path / "models")
    server.start()
    server.until(lambda: "weights" in server.http.get("/ready").json()["detail"], "the worker's word")
    answer = server.http.get("/ready")
    assert (answer.status_code, answer.json()["retryable"]) == (503, True)
    assert "python -m anime_studio.engine.loading.tiny_random" in answer.json()["detail"]
    assert str(tmp_path) not in answer.json()["detail"]
    (line,) = server.logged("worker.blocked")
    assert line["code"] == "weights_missing"
    assert f"tiny_random {tmp_path / 'models' / checkpoint}" in line["detail"]  # the operator's whole command

    shutil.copytree(models_dir / checkpoint, tmp_path / "models" / checkpoint)
    server.until(lambda: server.http.get("/ready").status_code == 200, "the worker to find its weights")
    assert_whole(server, server.ended(server.submit()["job_id"]))
    assert len(server.logged("worker.spawned")) == 1
