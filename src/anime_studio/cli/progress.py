"""A job's progress: a bar on a terminal, else a line for each change, nothing with `--json`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from anime_studio.cli.output import Output
from anime_studio.core.stage_words import STAGE_WORDS
from common.schemas import Job, JobState, Stage


@contextmanager
def progress_of(output: Output) -> Iterator[Callable[[Job], None]]:
    """Yield a function that shows a job."""
    if output.as_json:
        yield lambda _: None
    elif output.people.is_terminal:
        with _bar(output) as show:
            yield show
    else:
        yield _Lines(output)


def describe(job: Job) -> str:
    """Describe a job in words: `Drawing, step 2 of 3, 61%, about 4 s left`."""
    if job.state is JobState.QUEUED:
        ahead = job.queue_position
        words = "Next in line" if not ahead else f"{STAGE_WORDS['queue']}, {ahead} ahead"
    elif job.state is JobState.RUNNING:
        progress = job.progress
        words = STAGE_WORDS[_timing_of(job.stage)]
        if job.stage is Stage.DENOISE:
            words += f", step {min(progress.step + 1, progress.total_steps)} of {progress.total_steps}"
        words += f", {progress.fraction:.0%}"
    else:
        return job.state.value
    eta_s = job.progress.eta_s
    return words if eta_s is None else f"{words}, about {eta_s:.0f} s left"


def _timing_of(stage: Stage | None) -> str:
    return "start" if stage in (None, Stage.STARTING) else str(stage)


@contextmanager
def _bar(output: Output) -> Iterator[Callable[[Job], None]]:
    columns = (SpinnerColumn(), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=output.people, transient=True) as bar:
        task = bar.add_task("sent", total=1.0)
        yield lambda job: bar.update(task, completed=job.progress.fraction, description=describe(job))


class _Lines:
    """Prints a line when state, stage, step or place in the queue changes."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._shown: object = None

    def __call__(self, job: Job) -> None:
        current = (job.state, job.stage, job.progress.step, job.queue_position)
        if current != self._shown:
            self._shown = current
            self._output.info(describe(job))
