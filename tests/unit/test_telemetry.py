"""What reaches the log, and what never does."""

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from anime_studio import telemetry
from anime_studio.settings import Settings
from anime_studio.telemetry import (
    MOST_ANSWERS,
    MOST_REPEATS,
    SAMPLE_WINDOW_S,
    LogEvent,
    Sampler,
    configure_logging,
    describe_job,
    log_job,
)
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
def test_no_client_drives_the_operators_terminal(capsys: pytest.CaptureFixture[str], log_format: str) -> None:
    hostile = "\x1b]0;mine\x07\x1b[2J\x9b31m\u202e"
    configure_logging(Settings(log_format=log_format), component="server")  # type: ignore[arg-type]
    structlog.get_logger().info(LogEvent.CLIENT_SIGNAL, detail=hostile, nested=[hostile])
    logging.getLogger("any.library").warning("sent: %s", hostile)
    try:
        raise ValueError(hostile)
    except ValueError:
        structlog.get_logger().exception(LogEvent.REQUEST_FAILED)
    written = capsys.readouterr().err
    assert "mine" in written
    for sequence in ("\x1b]", "\x1b[2J", "\x07", "\x9b", "\u202e"):
        assert sequence not in written


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_signature_is_ever_written(capsys: pytest.CaptureFixture[str], log_format: str) -> None:
    configure_logging(Settings(log_format=log_format), component="server")  # type: ignore[arg-type]
    structlog.get_logger().warning(f"served {LINK}", url=LINK, nested={"links": [LINK]})
    logging.getLogger("uvicorn.access").info("GET %s HTTP/1.1", LINK)
    try:
        raise ValueError(LINK)
    except ValueError:
        structlog.get_logger().exception("request.failed")
    written = capsys.readouterr().err
    assert "studio.example" in written
    assert "HycMeYawGHRqromX" not in written
    assert written.count("signature=[redacted]") >= 4


def test_a_job_is_one_line_and_its_prompt_only_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Settings(log_format="json"), component="worker")
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    job = new_job(
        "a secret wish",
        requested_by="secret mio",
        traceparent=f"00-{trace_id}-00f067aa0ba902b7-01",
        state=JobState.SUCCEEDED,
    )
    log_job(job)
    (line,) = lines(capsys)
    assert line["event"] == "job.finished"
    assert (line["trace_id"], line["outcome"], line["seed"]) == (trace_id, "succeeded", 7)
    assert (line["prompt_chars"], len(str(line["prompt_sha256"]))) == (13, 12)
    assert "secret" not in json.dumps(line)
    assert len(str(line["requested_by_sha256"])) == 12
    shown = describe_job(job, log_prompts=True)
    assert (shown["prompt"], shown["requested_by"]) == ("a secret wish", "secret mio")


def test_a_jobs_line_names_all_that_decides_its_seconds() -> None:
    job = new_job()
    line = describe_job(job)
    decide = ("recipe", "resolution", "num_frames", "num_inference_steps", "guidance_scale", "decoder")
    assert {name: line[name] for name in decide} == job.spec.model_dump(mode="json", include=set(decide))


def test_every_log_event_is_written_somewhere_and_none_is_written_by_another_name() -> None:
    sources = [path.read_text() for path in Path(telemetry.__file__).parent.rglob("*.py")]
    used = {name for source in sources for name in re.findall(r"LogEvent\.([A-Z_]+)", source)}
    assert used == set(LogEvent.__members__)
    for source in sources:
        assert not re.search(r"_log\.(info|warning|error|exception)\(\s*+(?!LogEvent\.)", source)


@pytest.mark.parametrize("event", LogEvent)
def test_a_log_event_is_a_noun_and_what_happened_to_it(event: LogEvent) -> None:
    assert re.fullmatch(r"[a-z_]+\.[a-z_]+", event)
    assert event.name.lower() == event.value.replace(".", "_")


def answered(**fields: object) -> logging.LogRecord:
    event = {"event": LogEvent.REQUEST_ANSWERED, "method": "GET", "route": "/outputs/{clip_id}"} | fields
    return logging.LogRecord("web", logging.INFO, "", 0, event, None, None)


class TestSampler:
    def test_a_refusal_that_repeats_is_sampled_and_counted(self) -> None:
        now = 0.0
        sampler = Sampler(lambda: now)
        refused = {"status": 403, "error_code": "url_expired"}
        assert sum(sampler.filter(answered(**refused)) for _ in range(340)) == MOST_REPEATS
        now = SAMPLE_WINDOW_S
        later = answered(**refused)
        assert sampler.filter(later)
        assert isinstance(later.msg, dict) and later.msg["not_logged"] == 340 - MOST_REPEATS

    def test_other_answers_are_not_affected(self) -> None:
        sampler = Sampler(lambda: 0.0)
        for _ in range(50):
            sampler.filter(answered(status=403, error_code="url_expired"))
        assert sampler.filter(answered(status=403, error_code="url_invalid"))
        assert sampler.filter(answered(status=206))

    def test_a_flood_of_good_answers_is_bounded(self) -> None:
        sampler = Sampler(lambda: 0.0)
        assert sum(sampler.filter(answered(status=200)) for _ in range(5000)) == MOST_ANSWERS

    def test_a_librarys_warning_is_sampled(self) -> None:
        sampler = Sampler(lambda: 0.0)
        record = logging.LogRecord(
            "uvicorn.error", logging.WARNING, "", 0, "Invalid HTTP request", None, None
        )
        assert sum(sampler.filter(record) for _ in range(100)) == MOST_REPEATS

    def test_lines_of_jobs_are_never_sampled(self) -> None:
        sampler = Sampler(lambda: 0.0)
        job = logging.LogRecord(
            "telemetry", logging.INFO, "", 0, {"event": LogEvent.JOB_FINISHED}, None, None
        )
        assert all(sampler.filter(job) for _ in range(5000))
