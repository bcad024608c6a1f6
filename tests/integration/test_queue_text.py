"""The worker process of a laptop encodes the next job's text while a clip is drawn. Real processes, real engine."""

from pathlib import Path

import pytest
from test_crashes import assert_whole, models_dir  # noqa: F401  a fixture

from support.local_server import LocalServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_the_text_of_a_queued_job_is_stored_while_the_job_before_it_stands_still(
    tmp_path: Path,
    models_dir: Path,  # noqa: F811
) -> None:
    server = LocalServer(tmp_path, models_dir)
    server.stop_worker_at("denoise")
    try:
        server.start()
        first = server.submit("a cat on a roof")["job_id"]
        second = server.submit("a dog in the rain")["job_id"]
        server.waiting_worker()
        server.until(lambda: len(list(tmp_path.rglob("cache/*.safetensors"))) == 2, "the second text")
        assert server.record(first).state == "running" and server.record(second).state == "queued"
        server.let_workers_pass()
        for job_id in (first, second):
            assert_whole(server, server.ended(job_id))
        assert server.logged("text_ahead.failed") == []
    finally:
        server.kill()
