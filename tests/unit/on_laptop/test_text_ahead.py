"""In a queue the next job's text is there before the job before it ends. Real engine, real store; events, no times."""

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from anime_studio.core.clock import SystemClock
from anime_studio.core.jobs import JobRecord
from anime_studio.core.pricing import UNBILLED
from anime_studio.engine.engine import Engine
from anime_studio.job_runner import JobRunner
from anime_studio.on_laptop.clips import FolderClips
from anime_studio.on_laptop.database import connect, insert, writing
from anime_studio.on_laptop.text_ahead import EncodesAhead, TextAhead
from anime_studio.on_laptop.worker_store import SqliteWorkerStore
from anime_studio.telemetry import LogEvent
from common.schemas import ClipSpec, JobState, Stage, StartKind
from support.engine import spec_of, tiny_engine
from support.jobs import NOON, new_job

PATIENCE_S = 60.0
"""A hang costs so much."""


@pytest.fixture
def file(path: Path) -> Iterator[sqlite3.Connection]:
    connection = connect(path)
    yield connection
    connection.close()


def queue(file: sqlite3.Connection, prompt: str) -> JobRecord:
    job = new_job().model_copy(update={"spec": spec_of(prompt=prompt, num_inference_steps=2)})
    with writing(file):
        insert(file, job)
    return job


class Watched:
    """The engine, and an event for each text that was encoded ahead."""

    def __init__(self, engine: Engine) -> None:
        self.render = engine.render
        self.encoded = threading.Event()
        self.ahead: list[tuple[str, str]] = []
        self._engine = engine

    def encode_ahead(self, spec: ClipSpec) -> None:
        self.ahead.append((spec.prompt, threading.current_thread().name))
        self._engine.encode_ahead(spec)
        self.encoded.set()


def test_the_second_jobs_text_is_ready_before_the_first_job_ends(
    tiny_checkpoint: Path, tmp_path: Path, store: SqliteWorkerStore, file: sqlite3.Connection
):
    engine = tiny_engine(tiny_checkpoint)
    renderer = Watched(engine)
    assert isinstance(renderer, EncodesAhead) and isinstance(engine, EncodesAhead)
    ahead = TextAhead(renderer, store.next_queued)
    queue(file, "a cat on a roof")
    second = queue(file, "a dog in the rain")
    seen: list[tuple[Stage, bool]] = []

    def on_report(_: ClipSpec, stage: Stage) -> None:
        ahead.look(stage)
        if stage is Stage.DENOISE:
            assert renderer.encoded.wait(PATIENCE_S), (
                "the first job goes on only when the second's text is ready"
            )
        seen.append((stage, renderer.encoded.is_set()))

    runner = JobRunner(
        renderer, model_revision="random-0", machine=UNBILLED, clock=SystemClock(), scratch=tmp_path / "scratch",
        on_report=on_report,
    )  # fmt: skip

    def run() -> JobRecord:
        job = store.claim(NOON)
        assert job is not None
        return runner.run(job, store, FolderClips(tmp_path / "clips"), start_kind=StartKind.WARM, start_s=0.0)

    first = run()
    assert first.state is JobState.SUCCEEDED, first.error
    assert (Stage.TEXT, False) in seen, "its own text comes first"

    def broken(*_: object) -> None:
        raise RuntimeError("only the cache can answer now")

    engine.text._text_encoder.register_forward_pre_hook(broken)  # type: ignore[attr-defined]
    last = run()

    ahead.close()
    assert last.job_id == second.job_id and last.state is JobState.SUCCEEDED, last.error
    assert renderer.ahead == [("a dog in the rain", "text-ahead_0")], "once, and on a thread of its own"


def test_text_that_fails_ahead_costs_the_job_before_it_nothing_and_is_not_tried_at_each_step(
    store: SqliteWorkerStore, file: sqlite3.Connection
):
    tried = threading.Event()

    class Failing:
        tries = 0

        def encode_ahead(self, spec: ClipSpec) -> None:
            self.tries += 1
            tried.set()
            raise MemoryError("no room")

    renderer = Failing()
    ahead = TextAhead(renderer, store.next_queued)
    queue(file, "a cat")
    with structlog.testing.capture_logs() as lines:
        ahead.look(Stage.DENOISE)
        assert tried.wait(PATIENCE_S)
        for _ in range(5):
            ahead.look(Stage.DENOISE)
        ahead.close()
    assert renderer.tries == 1
    assert [line["event"] for line in lines] == [LogEvent.TEXT_AHEAD_FAILED]


def test_without_a_queue_and_before_a_clip_is_drawn_nothing_is_encoded(
    store: SqliteWorkerStore, file: sqlite3.Connection
):
    class Never:
        def encode_ahead(self, spec: ClipSpec) -> None:
            raise AssertionError("nothing was to be encoded")

    ahead = TextAhead(Never(), store.next_queued)
    with structlog.testing.capture_logs() as lines:
        ahead.look(Stage.DENOISE)  # nothing is queued
        queue(file, "a cat")
        for stage in (Stage.STARTING, Stage.TEXT, Stage.STORE):
            ahead.look(stage)
        ahead.close()
    assert lines == []


def test_two_threads_encode_one_prompt_once(tiny_checkpoint: Path):
    engine = tiny_engine(tiny_checkpoint)
    inside, go_on, forwards = threading.Event(), threading.Event(), []

    def slow(*_: object) -> None:
        forwards.append(threading.current_thread().name)
        inside.set()
        assert go_on.wait(PATIENCE_S)

    engine.text._text_encoder.register_forward_pre_hook(slow)  # type: ignore[attr-defined]
    spec = spec_of(guidance_scale=None)
    ahead = threading.Thread(target=engine.encode_ahead, args=(spec,), name="ahead")
    ahead.start()
    assert inside.wait(PATIENCE_S)
    drawing = threading.Thread(target=engine.encode, args=(spec,), name="drawing")
    drawing.start()
    go_on.set()
    ahead.join()
    drawing.join()
    assert forwards == ["ahead"]
