"""Two hundred clients at once on one real server: they submit, poll, follow and read ranges."""

import asyncio
import hashlib
import resource
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from anime_studio.cli.local_server import running_server
from anime_studio.client import AsyncStudioClient, QueueFullError
from common.schemas import Job

# 200 clients, the server and the worker share two cores: a minute, and more on a busy machine.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CLIENTS = 200
JOBS = 12
"""Real jobs of the tiny recipe; the clients share them."""
MAX_QUEUED_JOBS = 32  # the default of the setting
CHUNK_BYTES = 50_000
LIMIT_S = 240


@pytest.fixture(autouse=True, scope="module")
def _enough_sockets() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4096:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))


@pytest.fixture(scope="module")
def url(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    data_dir, models_dir = tmp_path_factory.mktemp("data"), tiny_checkpoint.parent.parent
    with running_server(data_dir, recipe="tiny-random", models_dir=models_dir) as server:
        server.wait_until_ready(LIMIT_S)
        yield server.url


async def test_two_hundred_clients_see_no_error(url: str) -> None:
    async with AsyncStudioClient(url) as studio:
        jobs = [await studio.submit(f"cat {n}", seed=n, duration=1) for n in range(JOBS)]
    ways = (_follow, _poll, _read_ranges)
    async with asyncio.timeout(LIMIT_S):
        ends = await asyncio.gather(
            *(ways[n % len(ways)](url, jobs[n % JOBS].job_id) for n in range(CLIENTS))
        )
    assert [end.state for end in ends] == ["succeeded"] * CLIENTS


async def test_a_full_queue_refuses_and_stores_what_it_accepted(url: str) -> None:
    async with AsyncStudioClient(url, retry_for_s=0) as studio:
        # Long jobs: the worker cannot end so many while they come that none is refused.
        submits = (
            studio.submit("a dog", duration=5, num_inference_steps=100) for _ in range(3 * MAX_QUEUED_JOBS)
        )
        answers = await asyncio.gather(*submits, return_exceptions=True)
        accepted = [job for job in answers if isinstance(job, Job)]
        refused = [answer for answer in answers if not isinstance(answer, Job)]
        assert len(accepted) >= MAX_QUEUED_JOBS
        assert {type(error) for error in refused} == {QueueFullError}
        assert all(error.problem.retry_after_s for error in refused if isinstance(error, QueueFullError))
        ends = await asyncio.gather(*(studio.cancel(job.job_id) for job in accepted))
        assert [job.job_id for job in ends] == [job.job_id for job in accepted]


async def _follow(url: str, job_id: str) -> Job:
    async with AsyncStudioClient(url) as studio:
        jobs = [job async for job in studio.events(job_id)]
    versions = [job.version for job in jobs]
    assert versions == sorted(set(versions))
    return jobs[-1]


async def _poll(url: str, job_id: str) -> Job:
    async with AsyncStudioClient(url) as studio:
        while not (job := await studio.get(job_id)).state.final:
            assert (await studio.health()).status == "ok"
            await asyncio.sleep(1)
        return job


async def _read_ranges(url: str, job_id: str) -> Job:
    """Read the clip as a player does: piece by piece, over plain HTTP."""
    async with AsyncStudioClient(url) as studio:
        job = await studio.wait(job_id, LIMIT_S)
    assert job.clip is not None
    digest = hashlib.sha256()
    async with httpx.AsyncClient(timeout=LIMIT_S) as player:
        for start in range(0, job.clip.size_bytes, CHUNK_BYTES):
            last = start + CHUNK_BYTES - 1
            answer = await player.get(job.clip.url, headers={"Range": f"bytes={start}-{last}"})
            assert answer.status_code == 206
            digest.update(answer.content)
    assert digest.hexdigest() == job.clip.sha256
    return job
