"""Schemathesis against the real app, store and folder over a real socket: no 5xx, and every answer as documented.

A fake worker finishes each job at once, so that answers of every state occur.
"""

import json
from collections.abc import Iterator
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from anime_studio.core.policy import Policy
from anime_studio.web.openapi import document
from support.server_rig import PATIENCE_S, ServerRig, until

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    rig = ServerRig(tmp_path_factory.mktemp("schemathesis"), generate_wait_s=0.5, heartbeat_s=0.2)
    rig.policy = Policy(max_queued_jobs=1000)
    with rig.serve() as http, rig.worker():
        yield str(http.base_url)


schema = schemathesis.openapi.from_dict(json.loads(document()))


@schema.parametrize()
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_every_answer_is_as_documented(case: schemathesis.Case, server: str) -> None:
    # A well formed request is refused if the recipe cannot render it (1080p needs an upscaler, also to be estimated)
    # or its key was used for another; an act of the operator if what it names does not suit it.
    choosy = (case.method, case.path) in {
        ("POST", "/generate"),
        ("POST", "/v1/videos"),
        ("POST", "/operator"),
        ("GET", "/ready"),
    }
    excluded = [positive_data_acceptance] if choosy else []
    case.call_and_validate(base_url=server, timeout=PATIENCE_S, excluded_checks=excluded)
    if case.path == "/operator":  # the other routes are tried without a pause
        httpx.post(f"{server}/operator", json={"action": "resume"}, timeout=PATIENCE_S)


def test_the_answers_for_a_real_job_are_as_documented(server: str) -> None:
    """Generated ids only get 404; these are real ones."""
    case = schema["/generate"]["POST"].Case(
        body={"prompt": "a fox"}, media_type="application/json", headers={"Prefer": "wait=30"}
    )
    case.call_and_validate(base_url=server, timeout=PATIENCE_S)
    with httpx.Client(base_url=server, timeout=PATIENCE_S) as http:
        job_id = http.post("/generate", json={"prompt": "a fox"}, headers={"Prefer": "respond-async"}).json()[
            "job_id"
        ]
        job = until(lambda: (found := http.get(f"/jobs/{job_id}").json())["state"] == "succeeded" and found)
    link = urlsplit(job["clip"]["url"])
    clip = {"path_parameters": {"clip_id": job["clip"]["clip_id"]}, "query": dict(parse_qsl(link.query))}
    for case in (
        schema["/jobs/{job_id}"]["GET"].Case(path_parameters={"job_id": job_id}),
        schema["/jobs/{job_id}/events"]["GET"].Case(path_parameters={"job_id": job_id}),
        schema["/outputs/{clip_id}"]["GET"].Case(**clip),
        schema["/outputs/{clip_id}"]["HEAD"].Case(**clip),
        schema["/outputs/{clip_id}"]["GET"].Case(**clip, headers={"Range": "bytes=0-9"}),
        schema["/outputs/{clip_id}"]["GET"].Case(**clip, headers={"Range": "bytes=99999999-"}),
        schema["/outputs/{clip_id}"]["GET"].Case(**clip, headers={"If-None-Match": "*"}),
        schema["/jobs/{job_id}"]["DELETE"].Case(path_parameters={"job_id": job_id}),
    ):
        case.call_and_validate(base_url=server, timeout=PATIENCE_S)
