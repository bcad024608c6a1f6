"""Two hundred clients at once: polling, following and range-reading while jobs run."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from anime_studio.core.studio import Policy
from support.stage import Stage, until

CLIENTS, JOBS = 200, 20
CROWD_S = 600
"""All clients, the server and the worker are threads of one process: slow where the machine is."""


@pytest.fixture
def stage(stage: Stage) -> Stage:
    stage.policy = Policy(max_queued_jobs=JOBS)
    return stage


def submit(http: httpx.Client, seed: int) -> str:
    answer = http.post(
        "/generate", json={"prompt": "a fox", "seed": seed}, headers={"Prefer": "respond-async"}
    )
    return answer.json()["job_id"]


def poll(http: httpx.Client, job_id: str) -> bool:
    return until(
        lambda: http.get(f"/jobs/{job_id}").raise_for_status().json()["state"] == "succeeded", CROWD_S
    )


def follow(http: httpx.Client, job_id: str) -> bool:
    with http.stream("GET", f"/jobs/{job_id}/events") as stream:
        data = [line for line in stream.iter_lines() if line.startswith("data:")]
    return '"state":"succeeded"' in data[-1]


def play(http: httpx.Client, job_id: str) -> bool:
    clip = until(lambda: http.get(f"/jobs/{job_id}").raise_for_status().json()["clip"], CROWD_S)
    firsts = range(0, clip["size_bytes"], 4096)
    parts = [http.get(clip["url"], headers={"Range": f"bytes={first}-{first + 4095}"}) for first in firsts]
    return {part.status_code for part in parts} == {206} and sum(len(part.content) for part in parts) == clip[
        "size_bytes"
    ]


def test_nobody_in_a_crowd_sees_an_error(stage, http):
    job_ids = [submit(http, seed) for seed in range(JOBS)]

    def one(client: int) -> bool:
        with httpx.Client(base_url=http.base_url, timeout=CROWD_S) as own:
            return (poll, follow, play)[client % 3](own, job_ids[client % JOBS])

    with stage.worker(), ThreadPoolExecutor(CLIENTS) as crowd:
        assert all(crowd.map(one, range(CLIENTS)))
