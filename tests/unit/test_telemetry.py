"""What reaches the log, and what never does."""

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from anime_studio.settings import Settings
from anime_studio.telemetry import configure_logging, describe_job, log_job
from common.schemas import JobState
from support.jobs import new_job

LINK = "https://studio.example/outputs/c_0?expires=1795413249&signature=HycMeYawGHRqromX&dl=1"


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_is_json_with_time_level_component_and_context(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Settings(log_format="json"), component="worker")
    with structlog.contextvars.bound_contextvars(request_id="r_1"):
        structlog.get_logger("anywhere").info("clip.published", size_bytes=3)
    (line,) = lines(capsys)
    assert str(line.pop("ts")).endswith("Z")
    assert line == {
        "event": "clip.published",
        "level": "info",
        "component": "worker",
        "request_id": "r_1",
        "size_bytes": 3,
    }


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_signature_is_ever_written(capsys: pytest.CaptureFixture[str], log_format: str) -> None:
    configure_logging(Settings(log_format=log_format), component="server")  # type: ignore[arg-type]
    structlog.get_logger().warning(f"served {LINK}", url=LINK, nested={"links": [LINK]})
    logging.getLogger("uvicorn.access").info("GET %s HTTP/1.1", LINK)
    try:
        raise ValueError(LINK)
    except ValueError:
        structlog.get_logger().exception("request.failed")
    told = capsys.readouterr().err
    assert "studio.example" in told
    assert "HycMeYawGHRqromX" not in told
    assert told.count("signature=[redacted]") >= 4


def test_a_job_is_one_line_and_its_prompt_only_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Settings(log_format="json"), component="worker")
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    job = new_job("a secret wish", traceparent=f"00-{trace_id}-00f067aa0ba902b7-01", state=JobState.SUCCEEDED)
    log_job(job)
    (line,) = lines(capsys)
    assert line["event"] == "job.finished"
    assert (line["trace_id"], line["outcome"], line["seed"]) == (trace_id, "succeeded", 7)
    assert (line["prompt_chars"], len(str(line["prompt_sha256"]))) == (13, 12)
    assert "secret" not in json.dumps(line)
    assert describe_job(job, log_prompts=True)["prompt"] == "a secret wish"
