"""Two hundred clients at once on one real server: submitting, polling, following, range-reading."""

import asyncio
import hashlib
import resource
from collections.abc import Iterator

import httpx
import pytest

from anime_studio.cli.local_server import running_server
from anime_studio.client import AsyncStudioClient, QueueFullError
from common.schemas import Job
from support.tiny_models import tiny_models

CLIENTS = 200
JOBS = 24
"""Real jobs of the tiny recipe; the clients share them."""
CHUNK_BYTES = 50_000
LIMIT_S = 600


@pytest.fixture(autouse=True, scope="module")
def _enough_sockets() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4096:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("many")
    models = tiny_models(folder / "models")
    with running_server(
        folder / "data", recipe="tiny-random", models_dir=models, start_within_s=LIMIT_S
    ) as server:
        server.wait_until_ready(LIMIT_S)
        yield server.url


async def test_two_hundred_clients_see_no_error(url: str) -> None:
    async with AsyncStudioClient(url) as studio:
        jobs = [await studio.submit(f"cat {n}", seed=n, duration=1) for n in range(JOBS)]
    ways = (_follow, _poll, _read_ranges)
    async with asyncio.timeout(LIMIT_S):
        ends = await asyncio.gather(
            *(ways[n % len(ways)](url, jobs[n % JOBS].job_id) for n in range(CLIENTS)), return_exceptions=True
        )
    errors = [end for end in ends if isinstance(end, BaseException)]
    assert errors == []
    assert {end.state for end in ends if isinstance(end, Job)} == {"succeeded"}
    assert len(ends) == CLIENTS


async def test_a_full_queue_refuses_and_keeps_what_it_took(url: str) -> None:
    async def ask(n: int) -> Job | None:
        async with AsyncStudioClient(url, retry_for_s=0) as studio:
            try:
                job = await studio.submit(f"dog {n}", seed=n, duration=1)
            except QueueFullError as error:
                assert error.problem.retry_after_s is not None
                return None
            return await studio.wait(job.job_id, LIMIT_S)

    ends = await asyncio.gather(*(ask(n) for n in range(60)))
    taken = [job for job in ends if job is not None]
    assert len(taken) >= 32  # `max_queued_jobs` at the least
    assert all(job.clip is not None for job in taken)


async def _follow(url: str, job_id: str) -> Job:
    async with AsyncStudioClient(url) as studio:
        versions: list[int] = []
        async for job in studio.events(job_id):
            versions.append(job.version)
        assert versions == sorted(set(versions))
        return job


async def _poll(url: str, job_id: str) -> Job:
    async with AsyncStudioClient(url) as studio:
        while not (job := await studio.get(job_id)).state.final:
            assert (await studio.health()).status == "ok"
            await asyncio.sleep(0.25)
        return job


async def _read_ranges(url: str, job_id: str) -> Job:
    """Read the clip as a player does: piece by piece, over plain HTTP."""
    async with AsyncStudioClient(url) as studio:
        job = await studio.wait(job_id, LIMIT_S)
    assert job.clip is not None
    digest = hashlib.sha256()
    async with httpx.AsyncClient(timeout=LIMIT_S) as player:
        for start in range(0, job.clip.size_bytes, CHUNK_BYTES):
            answer = await player.get(
                job.clip.url, headers={"Range": f"bytes={start}-{start + CHUNK_BYTES - 1}"}
            )
            assert answer.status_code == 206
            digest.update(answer.content)
    assert digest.hexdigest() == job.clip.sha256
    return job
