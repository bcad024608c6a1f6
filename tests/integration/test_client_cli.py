"""The client and the command line against the real server, over a real socket, on bad days too."""

import asyncio
import contextlib
import hashlib
import json
import os
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
    UnreachableError,
)
from common.schemas import Job
from support.ports import free_port
from support.proxy import CuttingProxy
from support.stage import PATIENCE_S, Stage, until
from support.tiny_models import tiny_models


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


def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "anime_studio.cli", *arguments],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


# The client


def test_a_prompt_becomes_a_file(stage: Stage, studio: StudioClient, tmp_path: Path) -> None:
    seen: list[Job] = []
    drawing = in_thread(stage.draw_next)
    job = studio.generate("a cat on a roof", seed=3, on_progress=seen.append)
    path = studio.download(job, tmp_path / "clip.mp4")
    drawing.join()
    assert job.clip is not None
    assert hashlib.sha256(path.read_bytes()).hexdigest() == job.clip.sha256
    assert [each.version for each in seen] == sorted({each.version for each in seen})
    assert seen[-1].version == job.version
    assert {"clip.mp4"} == {each.name for each in tmp_path.glob("*clip.mp4*")}


async def test_the_async_client_does_the_same(stage: Stage, url: str, tmp_path: Path) -> None:
    async with AsyncStudioClient(url) as studio:
        drawing = asyncio.create_task(asyncio.to_thread(stage.draw_next))
        job = await studio.generate("a cat on a roof")
        await drawing
        path = await studio.download(job.job_id, tmp_path / "clip.mp4")
        versions = [each.version async for each in studio.events(job.job_id)]
    assert job.clip is not None
    assert path.stat().st_size == job.clip.size_bytes
    assert versions[-1] == job.version


def test_a_failed_job_raises_with_its_record(stage: Stage, studio: StudioClient) -> None:
    drawing = in_thread(stage.fail_next)
    with pytest.raises(JobFailedError) as raised:
        studio.generate("a cat")
    drawing.join()
    assert raised.value.code == "frames_invalid"
    assert raised.value.job.state == "failed"


def test_a_cancelled_job_raises(studio: StudioClient) -> None:
    job = studio.submit("a cat")
    studio.cancel(job.job_id)
    with pytest.raises(JobCancelledError):
        studio.resume(job.job_id)


def test_a_wait_that_ends_loses_nothing(stage: Stage, studio: StudioClient) -> None:
    with pytest.raises(JobTimeoutError) as raised:
        studio.generate("a cat", timeout_s=0.3)
    drawing = in_thread(stage.draw_next)
    assert studio.resume(raised.value.job_id).clip is not None
    drawing.join()


def test_an_unknown_job_raises_at_once(studio: StudioClient) -> None:
    with pytest.raises(JobNotFoundError):
        studio.wait("j_" + "0" * 32)


def test_a_cut_stream_goes_on_without_gap_or_repeat(stage: Stage, proxy: CuttingProxy) -> None:
    with StudioClient(proxy.url) as studio:
        job = studio.submit("a cat")
        proxy.cuts, proxy.after = 3, b"}\r\n\r\n"  # a whole event passes; then the line is dead
        with stage.desk() as desk:
            seen: list[int] = []
            waiting = in_thread(
                lambda: studio.wait(job.job_id, on_progress=lambda each: seen.append(each.version))
            )
            record = stage.claim(desk)
            for step in (1, 2, 3):
                record = stage.step(desk, record, step)
                version = record.version
                until(lambda version=version: version in seen)  # type: ignore[misc]
            record = stage.finish(desk, record)
        waiting.join(PATIENCE_S)
    assert not waiting.is_alive()
    assert seen == sorted(set(seen))
    assert seen[-1] == record.version
    assert any("last-event-id:" in request.lower() for request in proxy.requests)


def test_a_cut_download_goes_on_where_it_was(
    stage: Stage, studio: StudioClient, proxy: CuttingProxy, tmp_path: Path
) -> None:
    job_id = studio.submit("a cat").job_id
    stage.draw_next()
    with StudioClient(proxy.url) as far:
        job = far.get(job_id)
        proxy.cuts, proxy.after_bytes = 3, 6_000
        path = far.download(job, tmp_path / "clip.mp4")
    assert job.clip is not None
    assert hashlib.sha256(path.read_bytes()).hexdigest() == job.clip.sha256
    assert sum("range: bytes=" in request.lower() for request in proxy.requests) >= 2


def test_an_expired_link_is_renewed_by_its_job_alone(
    stage: Stage, studio: StudioClient, tmp_path: Path
) -> None:
    job_id = studio.submit("a cat").job_id
    stage.draw_next()
    job = studio.get(job_id)
    assert job.clip is not None
    stage.clock.ahead = timedelta(hours=1)
    studio.download(job, tmp_path / "renewed.mp4")
    with pytest.raises(LinkExpiredError):
        studio.download(job.clip, tmp_path / "not.mp4")
    assert [each.name for each in tmp_path.glob("*not.mp4*")] == []


def test_a_swept_clip_is_gone(stage: Stage, studio: StudioClient, tmp_path: Path) -> None:
    job_id = studio.submit("a cat").job_id
    record = stage.draw_next()
    job = studio.get(job_id)
    asyncio.run(stage.clips.remove(record.clip_id))
    with pytest.raises(ClipGoneError):
        studio.download(job, tmp_path / "clip.mp4")


def test_bytes_that_differ_from_the_record_are_never_kept(
    stage: Stage, studio: StudioClient, tmp_path: Path
) -> None:
    job_id = studio.submit("a cat").job_id
    stage.draw_next()
    clip = studio.get(job_id).clip
    assert clip is not None
    other = clip.model_copy(update={"sha256": "0" * 64})
    target = tmp_path / "clip.mp4"
    target.write_bytes(b"before")
    with pytest.raises(Exception, match="another SHA-256") as raised:
        studio.download(other, target)
    assert getattr(raised.value, "code", None) == "download_damaged"
    assert target.read_bytes() == b"before"


def test_nothing_there_is_unreachable() -> None:
    with StudioClient("http://127.0.0.1:9", retry_for_s=0) as studio, pytest.raises(UnreachableError):
        studio.health()


# The command line


def test_generate_prints_one_document_and_saves_the_clip(stage: Stage, url: str, tmp_path: Path) -> None:
    with stage.worker():
        ran = run("generate", "a cat", "--json", "--url", url, "--out", "x.mp4", "--seed", "0", cwd=tmp_path)
    assert ran.returncode == ExitCode.OK, ran.stderr
    job = Job.model_validate_json(ran.stdout)
    assert job.request.seed == 0
    assert job.clip is not None
    assert hashlib.sha256((tmp_path / "x.mp4").read_bytes()).hexdigest() == job.clip.sha256
    assert ran.stderr == ""


def test_plain_output_has_no_escapes_and_names_the_file(stage: Stage, url: str, tmp_path: Path) -> None:
    with stage.worker():
        ran = run("generate", "a cat", "--out", "x.mp4", cwd=tmp_path, ANIME_STUDIO_URL=url)
    assert ran.returncode == ExitCode.OK, ran.stderr
    assert ran.stdout.startswith("x.mp4  64x48, 17 frames")
    assert "succeeded" in ran.stderr
    assert "\x1b" not in ran.stdout + ran.stderr


def test_an_existing_file_is_refused_before_anything_is_drawn(stage: Stage, url: str, tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_bytes(b"mine")
    ran = run("generate", "a cat", "--out", "x.mp4", "--url", url, cwd=tmp_path)
    assert ran.returncode == ExitCode.USAGE
    assert "--force" in ran.stderr
    assert (tmp_path / "x.mp4").read_bytes() == b"mine"
    assert stage.launcher.launched == []


def test_a_failed_job_ends_with_1_and_both_documents(stage: Stage, url: str, tmp_path: Path) -> None:
    drawing = in_thread(stage.fail_next)
    ran = run("generate", "a cat", "--json", "--url", url, cwd=tmp_path)
    drawing.join()
    assert ran.returncode == ExitCode.FAILED
    assert Job.model_validate_json(ran.stdout).state == "failed"
    assert json.loads(ran.stderr)["code"] == "frames_invalid"


def test_a_timeout_ends_with_5_and_fetch_takes_it_up(stage: Stage, url: str, tmp_path: Path) -> None:
    ran = run("generate", "a cat", "--timeout", "0.5", "--url", url, cwd=tmp_path)
    assert ran.returncode == ExitCode.TIMED_OUT
    (job_id,) = stage.launcher.launched
    assert f"anime-studio fetch {job_id}" in ran.stderr
    drawing = in_thread(stage.draw_next)
    assert run("fetch", job_id, "-o", "x.mp4", "--url", url, cwd=tmp_path).returncode == ExitCode.OK
    drawing.join()
    assert (tmp_path / "x.mp4").stat().st_size > 0


def test_refused_and_unreachable_have_their_numbers(url: str, tmp_path: Path) -> None:
    refused = run("generate", "a cat", "--duration", "59", "--json", "--url", url, cwd=tmp_path)
    assert refused.returncode == ExitCode.REFUSED
    assert json.loads(refused.stderr)["code"] == "unsupported_by_recipe"
    assert refused.stdout == ""
    alone = run("generate", "a cat", "--url", "http://127.0.0.1:9", cwd=tmp_path)
    assert alone.returncode == ExitCode.UNREACHABLE


def test_interrupt_cancels_the_job(stage: Stage, url: str, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "anime_studio.cli", "generate", "a cat", "--json", "--url", url],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: stage.store._feed._inboxes)  # in the midst of its wait
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == ExitCode.INTERRUPTED, err
    assert Job.model_validate_json(out).state == "cancelled"
    assert stage.store_record(stage.launcher.launched[0]).state == "cancelled"


def test_status_and_cancel(stage: Stage, studio: StudioClient, url: str, tmp_path: Path) -> None:
    job_id = studio.submit("a cat").job_id
    told = run("status", job_id, "--json", "--url", url, cwd=tmp_path)
    assert json.loads(told.stdout)["state"] == "queued"
    server = run("status", "--json", "--url", url, cwd=tmp_path)
    assert json.loads(server.stdout)["readiness"]["ready"] is True
    assert run("cancel", job_id, "--url", url, cwd=tmp_path).returncode == ExitCode.OK
    assert run("status", job_id, "--url", url, cwd=tmp_path).returncode == ExitCode.FAILED


# The server, really killed


def serve(folder: Path, port: int) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "anime_studio.cli",
        "serve",
        "--port",
        str(port),
        "--recipe",
        "tiny-random",
    ]
    command += ["--data-dir", str(folder / "data"), "--models-dir", str(folder / "models")]
    with (folder / "server.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


@contextlib.contextmanager
def stopping(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE_S)
        finally:
            process.kill()


def test_a_wait_outlives_the_server_it_began_with(tmp_path: Path) -> None:
    tiny_models(tmp_path / "models")
    port = free_port()
    with (
        stopping(serve(tmp_path, port)) as first,
        StudioClient(f"http://127.0.0.1:{port}", retry_for_s=PATIENCE_S, patience_s=PATIENCE_S) as studio,
    ):
        seen: list[Job] = []
        job = studio.submit("a cat")  # at once: the worker is still loading
        waiting = in_thread(lambda: studio.wait(job.job_id, 600, seen.append))
        until(lambda: seen)
        first.kill()
        first.wait()
        with stopping(serve(tmp_path, port)):
            waiting.join(600)
            assert not waiting.is_alive()
            assert studio.get(job.job_id).state == "succeeded"
            studio.download(job.job_id, tmp_path / "clip.mp4")
    assert seen[-1].state == "succeeded"
