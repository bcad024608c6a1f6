"""A job's progress: a bar on a terminal, one line for each change elsewhere, nothing with `--json`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from anime_studio.cli.output import Output
from common.schemas import Job, JobState


@contextmanager
def progress_of(output: Output) -> Iterator[Callable[[Job], None]]:
    """Give a function that shows a job."""
    if output.as_json:
        yield lambda _: None
    elif output.people.is_terminal:
        with _bar(output) as show:
            yield show
    else:
        yield _Lines(output)


def describe(job: Job) -> str:
    """Return where a job is, in words: `denoise 2/3, 61 %, about 4 s left`."""
    if job.state is JobState.QUEUED:
        ahead = job.queue_position
        words = "queued" if not ahead else f"queued, {ahead} ahead"
    elif job.state is JobState.RUNNING:
        progress = job.progress
        words = job.stage.value if job.stage else "running"
        if progress.total_steps:
            words += f" {progress.step}/{progress.total_steps}"
        words += f", {progress.fraction:.0%}"
    else:
        return job.state.value
    eta_s = job.progress.eta_s
    return words if eta_s is None else f"{words}, about {eta_s:.0f} s left"


@contextmanager
def _bar(output: Output) -> Iterator[Callable[[Job], None]]:
    columns = (SpinnerColumn(), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=output.people, transient=True) as bar:
        task = bar.add_task("sent", total=1.0)
        yield lambda job: bar.update(task, completed=job.progress.fraction, description=describe(job))


class _Lines:
    """Says a stage or step once, however often it is told."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._said: object = None

    def __call__(self, job: Job) -> None:
        news = (job.state, job.stage, job.progress.step, job.queue_position)
        if news != self._said:
            self._said = news
            self._output.say(describe(job))
