"""Prompt to MP4 in a queue of ten, as a laptop's worker draws it: the next text is encoded while a clip is drawn.

The engine draws ten clips of ten prompts, one after another. At each report it looks for the next text to encode
(`on_laptop.text_ahead`), on the CPU and all its cores. Drawing alone is the same engine with clips whose text is in the cache
already: half of them before the queue, half after it, since a card lowers its clock as it gets warm. Neither side has a
job store. The first clip of each has nobody before it and is left out of the medians.

    python -m benchmarks.startup.queue_of_ten [--commit COMMIT] [--cpu]          a JSON line

On a CUDA device: Wan 2.1 1.3B and UMT5-XXL with random weights, made in memory, which takes 30 GB of the device and 12 GB of
host memory. Without one: a tiny shape, whose times mean nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from anime_studio.core.clip import plan
from anime_studio.core.clock import SystemClock
from anime_studio.core.cpus import usable_cores
from anime_studio.core.jobs import JobRecord
from anime_studio.core.ports import Report
from anime_studio.engine.engine import Engine
from anime_studio.engine.loading.architecture import without_encoder
from anime_studio.engine.startup import options_for, warm_up
from anime_studio.engine.text import PromptEncoder
from anime_studio.on_laptop.text_ahead import TextAhead
from benchmarks.engine.bench import machine_and_versions
from benchmarks.engine.sides import Work, full_work, in_bfloat16, tiny_work
from common.schemas import ClipSpec, GenerateRequest

CLIPS = 10
TOKENS = 32
GOAL_RATIO = 1.03
"""A clip of the queue may take so much of the drawing time."""


class Queue:
    """Jobs in their order; the engine takes one after another."""

    def __init__(self, work: Work, count: int) -> None:
        self._waiting = [_job(work) for _ in range(count)]

    def next_queued(self) -> JobRecord | None:
        """Return the job that is taken next, as a job store does."""
        return self._waiting[0] if self._waiting else None

    def claimed(self) -> Iterator[JobRecord]:
        """Yield each job once it is no longer in the queue."""
        while self._waiting:
            yield self._waiting.pop(0)


def measure(work: Work) -> dict[str, Any]:
    """Return the seconds of each clip, in a queue and alone, and what a clip of the queue takes of the drawing time."""
    engine = _engine(work)
    alone = [_alone(engine, work, CLIPS // 2)]
    jobs = Queue(work, CLIPS)
    in_queue, text = _in_queue(engine, jobs)
    alone.append(_alone(engine, work, CLIPS // 2))
    drawing_s = statistics.median(seconds for half in alone for seconds in half[1:])
    clip_s = statistics.median(in_queue[1:])
    return {
        "clip_s": clip_s,
        "drawing_s": drawing_s,
        "ratio": clip_s / drawing_s,
        "goal_ratio": GOAL_RATIO,
        "clip_runs_s": in_queue,
        "drawing_runs_s": [seconds for half in alone for seconds in half],
        "text_runs_s": text,
        "text_alone_s": _text_alone(engine, work),
        "tokens": TOKENS,
        "threads": torch.get_num_threads(),
    }


def _engine(work: Work) -> Engine:
    """Return a warm engine over *work*, with the text encoder on the CPU."""
    parts, recipe = work.components, work.recipe
    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
    text = PromptEncoder(
        parts.tokenizer,
        parts.text_encoder.to("cpu"),
        max_sequence_length=recipe.max_sequence_length,
        revision="random",
    )
    if parts.device.type == "cuda":  # the tiny VAE was loaded from files, without an encoder
        without_encoder(parts.vae)
        torch.cuda.empty_cache()
    alone = replace(parts, tokenizer=None, text_encoder=None)
    engine = Engine(
        alone, recipe, revision="random", acceleration=options_for(recipe, parts.device), text=text
    )
    warm_up(engine, every_shape=False)  # the longest clip, which is the one that is drawn
    return engine


def _in_queue(engine: Engine, queue: Queue) -> tuple[list[float], list[float]]:
    """Draw the queue; return the seconds of each clip and those that it waited for its text."""
    clips, texts = [], []
    with closing(TextAhead(engine, queue.next_queued)) as ahead:
        for job in queue.claimed():
            seconds, text_s = _drawn(engine, job.spec, lambda stage, *_: ahead.look(stage))
            clips.append(seconds)
            texts.append(text_s)
    return clips, texts


def _alone(engine: Engine, work: Work, count: int) -> list[float]:
    """Draw *count* clips whose text is ready; return the seconds of each."""
    specs = [_job(work).spec for _ in range(count)]
    for spec in specs:
        engine.encode_ahead(spec)
    return [_drawn(engine, spec, lambda *_: None)[0] for spec in specs]


def _text_alone(engine: Engine, work: Work) -> float:
    """Return the seconds of a text that is encoded while nothing is drawn."""
    spec = _job(work).spec
    begun = time.perf_counter()
    engine.encode_ahead(spec)
    return time.perf_counter() - begun


def _drawn(engine: Engine, spec: ClipSpec, report: Report) -> tuple[float, float]:
    """Draw one clip; return the seconds from prompt to MP4, and those of its text."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        rendered = engine.render(spec, Path(folder), report)
        return time.perf_counter() - begun, rendered.text_s


def _job(work: Work) -> JobRecord:
    """Return a queued job with a prompt of its own."""
    prompt = work.prompt()[: TOKENS - 1]  # a token is a byte, and the end is the last
    request = GenerateRequest(prompt=prompt, duration=work.duration_s, seed=work.seed())
    spec = plan(request, work.recipe, model_revision="random", seed=0)
    spec = spec.model_copy(update={"prompt_used": prompt})
    return JobRecord.submitted(request, spec, request_id="benchmark", now=SystemClock().now())


def _work(folder: Path, *, cpu: bool) -> Work:
    return tiny_work(folder) if cpu else in_bfloat16(full_work(torch.device("cuda", 0)))


def main() -> None:
    """Measure and print; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--commit", default="", help="where the folder is no repository")
    parser.add_argument("--cpu", action="store_true", help="the tiny shape, even where there is a GPU")
    asked = parser.parse_args()
    cpu = asked.cpu or not torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as folder:
        work = _work(Path(folder), cpu=cpu)
        machine = machine_and_versions(work.components.device)
        if asked.commit:
            machine["commit"] = asked.commit
        print(json.dumps({**measure(work), **machine}))


if __name__ == "__main__":
    main()
