"""Schemathesis against the real app, store and folder over a real socket: no 5xx, no lie in the document.

A played worker draws each job at once, so that answers of every state are seen.
"""

import json
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from anime_studio.core.studio import Policy
from anime_studio.web.openapi import document
from support.stage import Stage

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    stage = Stage(tmp_path_factory.mktemp("schemathesis"), generate_wait_s=0.5, heartbeat_s=0.2)
    stage.policy = Policy(max_queued_jobs=1000)
    with stage.serve() as http, stage.worker():
        yield str(http.base_url)


schema = schemathesis.openapi.from_dict(json.loads(document()))


@schema.parametrize()
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_every_answer_is_as_documented(case: schemathesis.Case, server: str) -> None:
    # What a recipe cannot draw, and a key used twice, are refused however well formed they are.
    creates = (case.method, case.path) in {("POST", "/generate"), ("POST", "/v1/videos")}
    excluded = [positive_data_acceptance] if creates else []
    case.call_and_validate(base_url=server, timeout=30, excluded_checks=excluded)
