"""The client and the command line against the real server over a real socket, with faults."""

import asyncio
import hashlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from anime_studio.cli.output import ExitCode
from anime_studio.client import (
    AsyncStudioClient,
    ClipGoneError,
    JobCancelledError,
    JobFailedError,
    JobNotFoundError,
    JobTimeoutError,
    LinkExpiredError,
    StudioClient,
)
from common.schemas import Job
from support.command_line import run
from support.local_server import LocalServer
from support.ports import free_port
from support.proxy import CuttingProxy
from support.server_rig import PATIENCE_S, ServerRig, until


@pytest.fixture
def url(http: httpx.Client) -> str:
    return str(http.base_url)


@pytest.fixture
def studio(url: str) -> Iterator[StudioClient]:
    with StudioClient(url) as client:
        yield client


@pytest.fixture
def proxy(http: httpx.Client) -> Iterator[CuttingProxy]:
    with CuttingProxy(http.base_url.port or 0).running() as proxy:
        yield proxy


def in_thread(work: object) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)  # type: ignore[arg-type]
    thread.start()
    return thread


# The client


def test_a_prompt_becomes_a_file(rig: ServerRig, studio: StudioClient, tmp_path: Path) -> None:
    seen: list[Job] = []
    worker = in_thread(rig.render_next)
    job = studio.generate("a cat on a roof", seed=3, on_progress=seen.append)
    path = studio.download(job, tmp_path / "clip.mp4")
    worker.join()
    assert job.clip is not None
    assert hashlib.sha256(path.read_bytes()).hexdigest() == job.clip.sha256
    assert [each.version for each in seen] == sorted({each.version for each in seen})
    assert seen[-1].version == job.version
    assert {"clip.mp4"} == {each.name for each in tmp_path.glob("*clip.mp4*")}


async def test_the_async_client_does_the_same(rig: ServerRig, url: str, tmp_path: Path) -> None:
    async with AsyncStudioClient(url) as studio:
        worker = asyncio.create_task(asyncio.to_thread(rig.render_next))
        job = await studio.generate("a cat on a roof")
        await worker
        path = await studio.download(job.job_id, tmp_path / "clip.mp4")
        versions = [each.version async for each in studio.events(job.job_id)]
    assert job.clip is not None
    assert path.stat().st_size == job.clip.size_bytes
    assert versions[-1] == job.version


def test_a_failed_job_raises_with_its_record(rig: ServerRig, studio: StudioClient) -> None:
    worker = in_thread(rig.fail_next)
    with pytest.raises(JobFailedError) as raised:
        studio.generate("a cat")
    worker.join()
    assert raised.value.code == "frames_invalid"
    assert raised.value.job.state == "failed"


def test_a_cancelled_job_raises(studio: StudioClient) -> None:
    job = studio.submit("a cat")
    studio.cancel(job.job_id)
    with pytest.raises(JobCancelledError):
        studio.resume(job.job_id)


def test_a_wait_that_ends_loses_nothing(rig: ServerRig, studio: StudioClient) -> None:
    with pytest.raises(JobTimeoutError) as raised:
        studio.generate("a cat", timeout_s=0.3)
    worker = in_thread(rig.render_next)
    assert studio.resume(raised.value.job_id).clip is not None
    worker.join()


def test_an_unknown_job_raises_at_once(studio: StudioClient) -> None:
    with pytest.raises(JobNotFoundError):
        studio.wait("j_" + "0" * 32)


def test_a_cut_stream_goes_on_without_gap_or_repeat(rig: ServerRig, proxy: CuttingProxy) -> None:
    with StudioClient(proxy.url) as studio:
        job = studio.submit("a cat")
        proxy.cuts, proxy.after = 3, b"}\r\n\r\n"  # a whole event passes; then the line is dead
        with rig.worker_store() as worker_store:
            seen: list[int] = []
            waiting = in_thread(
                lambda: studio.wait(job.job_id, on_progress=lambda each: seen.append(each.version))
            )
            record = rig.claim(worker_store)
            for step in (1, 2, 3):
                record = rig.step(worker_store, record, step)
                version = record.version
                until(lambda version=version: version in seen)  # type: ignore[misc]
            record = rig.finish(worker_store, record)
        waiting.join(PATIENCE_S)
    assert not waiting.is_alive()
    assert seen == sorted(set(seen))
    assert seen[-1] == record.version
    assert any("last-event-id:" in request.lower() for request in proxy.requests)


def test_a_cut_download_goes_on_where_it_was(
    rig: ServerRig, studio: StudioClient, proxy: CuttingProxy, tmp_path: Path
) -> None:
    job_id = studio.submit("a cat").job_id
    rig.render_next()
    with StudioClient(proxy.url) as far:
        job = far.get(job_id)
        proxy.cuts, proxy.after_bytes = 3, 6_000
        path = far.download(job, tmp_path / "clip.mp4")
    assert job.clip is not None
    assert hashlib.sha256(path.read_bytes()).hexdigest() == job.clip.sha256
    assert sum("range: bytes=" in request.lower() for request in proxy.requests) >= 2


def test_an_expired_link_is_renewed_by_its_job_alone(
    rig: ServerRig, studio: StudioClient, tmp_path: Path
) -> None:
    job_id = studio.submit("a cat").job_id
    rig.render_next()
    job = studio.get(job_id)
    assert job.clip is not None
    rig.clock.ahead = timedelta(hours=1)
    studio.download(job, tmp_path / "renewed.mp4")
    with pytest.raises(LinkExpiredError):
        studio.download(job.clip, tmp_path / "not.mp4")
    assert [each.name for each in tmp_path.glob("*not.mp4*")] == []


def test_a_swept_clip_is_gone(rig: ServerRig, studio: StudioClient, tmp_path: Path) -> None:
    job_id = studio.submit("a cat").job_id
    record = rig.render_next()
    job = studio.get(job_id)
    asyncio.run(rig.clips.remove(record.clip_id))
    with pytest.raises(ClipGoneError):
        studio.download(job, tmp_path / "clip.mp4")


def test_bytes_that_differ_from_the_record_are_never_saved(
    rig: ServerRig, studio: StudioClient, tmp_path: Path
) -> None:
    job_id = studio.submit("a cat").job_id
    rig.render_next()
    clip = studio.get(job_id).clip
    assert clip is not None
    other = clip.model_copy(update={"sha256": "0" * 64})
    target = tmp_path / "clip.mp4"
    target.write_bytes(b"before")
    with pytest.raises(Exception, match="another SHA-256") as raised:
        studio.download(other, target)
    assert getattr(raised.value, "code", None) == "download_damaged"
    assert target.read_bytes() == b"before"


# The command line


def test_generate_prints_one_document_and_saves_the_clip(rig: ServerRig, url: str, tmp_path: Path) -> None:
    with rig.worker():
        ran = run("generate", "a cat", "--json", "--url", url, "--out", "x.mp4", "--seed", "0", cwd=tmp_path)
    assert ran.returncode == ExitCode.OK, ran.stderr
    job = Job.model_validate_json(ran.stdout)
    assert job.request.seed == 0
    assert job.clip is not None
    assert hashlib.sha256((tmp_path / "x.mp4").read_bytes()).hexdigest() == job.clip.sha256
    assert ran.stderr == ""


def test_plain_output_has_no_escapes_and_names_the_file(rig: ServerRig, url: str, tmp_path: Path) -> None:
    with rig.worker():
        ran = run("generate", "a cat", "--out", "x.mp4", cwd=tmp_path, ANIME_STUDIO_URL=url)
    assert ran.returncode == ExitCode.OK, ran.stderr
    assert ran.stdout.startswith("x.mp4  64x48, 17 frames")
    assert "succeeded" in ran.stderr
    assert "\x1b" not in ran.stdout + ran.stderr


def test_an_existing_file_is_refused_before_a_job_is_created(
    rig: ServerRig, url: str, tmp_path: Path
) -> None:
    (tmp_path / "x.mp4").write_bytes(b"mine")
    ran = run("generate", "a cat", "--out", "x.mp4", "--url", url, cwd=tmp_path)
    assert ran.returncode == ExitCode.USAGE
    assert "--force" in ran.stderr
    assert (tmp_path / "x.mp4").read_bytes() == b"mine"
    assert rig.launcher.launched == []


def test_a_failed_job_ends_with_1_and_both_documents(rig: ServerRig, url: str, tmp_path: Path) -> None:
    worker = in_thread(rig.fail_next)
    ran = run("generate", "a cat", "--json", "--url", url, cwd=tmp_path)
    worker.join()
    assert ran.returncode == ExitCode.FAILED
    assert Job.model_validate_json(ran.stdout).state == "failed"
    assert json.loads(ran.stderr)["code"] == "frames_invalid"


def test_a_timeout_ends_with_5_and_fetch_resumes(rig: ServerRig, url: str, tmp_path: Path) -> None:
    ran = run("generate", "a cat", "--timeout", "0.5", "--url", url, cwd=tmp_path)
    assert ran.returncode == ExitCode.TIMED_OUT
    (job_id,) = rig.launcher.launched
    assert f"anime-studio fetch {job_id}" in ran.stderr
    worker = in_thread(rig.render_next)
    assert run("fetch", job_id, "-o", "x.mp4", "--url", url, cwd=tmp_path).returncode == ExitCode.OK
    worker.join()
    assert (tmp_path / "x.mp4").stat().st_size > 0


def test_refused_and_unreachable_have_their_exit_codes(url: str, tmp_path: Path) -> None:
    refused = run("generate", "a cat", "--duration", "59", "--json", "--url", url, cwd=tmp_path)
    assert refused.returncode == ExitCode.REFUSED
    assert json.loads(refused.stderr)["code"] == "unsupported_by_recipe"
    assert refused.stdout == ""
    alone = run("generate", "a cat", "--url", "http://127.0.0.1:9", cwd=tmp_path)
    assert alone.returncode == ExitCode.UNREACHABLE


def test_interrupt_cancels_the_job(rig: ServerRig, url: str, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "anime_studio.cli", "generate", "a cat", "--json", "--url", url],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: rig.store.feed.followers)  # the command waits now
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == ExitCode.INTERRUPTED, err
    assert Job.model_validate_json(out).state == "cancelled"
    assert rig.record(rig.launcher.launched[0]).state == "cancelled"


def test_status_and_cancel(rig: ServerRig, studio: StudioClient, url: str, tmp_path: Path) -> None:
    job_id = studio.submit("a cat").job_id
    shown = run("status", job_id, "--json", "--url", url, cwd=tmp_path)
    assert json.loads(shown.stdout)["state"] == "queued"
    server = run("status", "--json", "--url", url, cwd=tmp_path)
    assert json.loads(server.stdout)["readiness"]["ready"] is True
    assert run("cancel", job_id, "--url", url, cwd=tmp_path).returncode == ExitCode.OK
    assert run("status", job_id, "--url", url, cwd=tmp_path).returncode == ExitCode.FAILED


# The server, really killed


@pytest.mark.slow
def test_a_wait_survives_a_restart_of_its_server(tiny_checkpoint: Path, tmp_path: Path) -> None:
    server = LocalServer(tmp_path, tiny_checkpoint.parent.parent, port=free_port())
    seen: list[Job] = []
    try:
        server.start()
        with StudioClient(str(server.http.base_url), patience_s=PATIENCE_S) as studio:
            job = studio.submit("a cat")  # at once: the worker is still loading
            waiting = in_thread(lambda: studio.wait(job.job_id, PATIENCE_S, seen.append))
            until(lambda: seen)
            server.stop(signal.SIGKILL)
            server.start()
            waiting.join(PATIENCE_S)
            assert seen[-1].state == "succeeded"
            studio.download(job.job_id, tmp_path / "clip.mp4")
        server.stop()
    finally:
        server.kill()
