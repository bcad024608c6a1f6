"""`operator`: see whose prompt is drawn; cancel, clear, hide, pause. And the same acts by keys for `watch`."""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Final

import typer
from rich.table import Table
from rich.text import Text

from anime_studio.cli.generate import studio_at
from anime_studio.cli.output import JsonOption, UrlOption, answering
from anime_studio.client import DEFAULT_URL, StudioClient, StudioError
from anime_studio.core.plain_text import visible
from anime_studio.core.stage_words import STAGE_WORDS
from common.operator import OperatorAction, OperatorJob, OperatorVerb, OperatorView
from common.schemas import JobState

KEY_VARIABLE: Final = "ANIME_STUDIO_OPERATOR_KEY"
CONFIRM_WITHIN_S: Final = 3.0
KEYS_HELP: Final = (
    "keys: p pause or resume · s stop the running job · h hide the newest clip · c c clear the queue"
)

OperatorKey = Annotated[
    str | None,
    typer.Option("--key", envvar=KEY_VARIABLE, help="The operator's key.", show_default=False),
]

operator = typer.Typer(help="See whose prompt is drawn; cancel, clear, hide, pause.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(operator, name="operator")


@operator.command("list")
def list_jobs(url: UrlOption = DEFAULT_URL, key: OperatorKey = None, as_json: JsonOption = False) -> None:
    """List running, waiting and last jobs with their prompts, and what was spent."""
    with answering(as_json=as_json) as output, studio_at(url) as studio:
        view = studio.operator_view(key)
        output.result(view, "\n".join([_head(view), *map(_line, view.jobs)]))


@operator.command()
def pause(url: UrlOption = DEFAULT_URL, key: OperatorKey = None, as_json: JsonOption = False) -> None:
    """Refuse new orders; those that were accepted go on."""
    _act(OperatorAction(action=OperatorVerb.PAUSE), url, key, as_json=as_json)


@operator.command()
def resume(url: UrlOption = DEFAULT_URL, key: OperatorKey = None, as_json: JsonOption = False) -> None:
    """Take new orders again."""
    _act(OperatorAction(action=OperatorVerb.RESUME), url, key, as_json=as_json)


@operator.command()
def clear(url: UrlOption = DEFAULT_URL, key: OperatorKey = None, as_json: JsonOption = False) -> None:
    """Cancel every job that waits."""
    _act(OperatorAction(action=OperatorVerb.CLEAR), url, key, as_json=as_json)


@operator.command()
def cancel(
    job_id: Annotated[str | None, typer.Argument(help="A job's id, from `operator list`.")] = None,
    by: Annotated[str | None, typer.Option(help="Cancel all open jobs that this viewer asked for.")] = None,
    url: UrlOption = DEFAULT_URL,
    key: OperatorKey = None,
    as_json: JsonOption = False,
) -> None:
    """Cancel one job, or all of one viewer."""
    if (job_id is None) == (by is None):
        raise typer.BadParameter("name a job, or a viewer with --by")
    _act(_checked(OperatorVerb.CANCEL, job_id=job_id, requested_by=by), url, key, as_json=as_json)


@operator.command()
def hide(
    clip_id: str, url: UrlOption = DEFAULT_URL, key: OperatorKey = None, as_json: JsonOption = False
) -> None:
    """Keep a clip off its channel: an overlay that shows it takes it down."""
    _act(_checked(OperatorVerb.HIDE, clip_id=clip_id), url, key, as_json=as_json)


@operator.command()
def show(
    clip_id: str, url: UrlOption = DEFAULT_URL, key: OperatorKey = None, as_json: JsonOption = False
) -> None:
    """Put a hidden or held clip on its channel."""
    _act(_checked(OperatorVerb.SHOW, clip_id=clip_id), url, key, as_json=as_json)


def _checked(action: OperatorVerb, **fields: str | None) -> OperatorAction:
    try:
        return OperatorAction.model_validate({"action": action, **fields})
    except ValueError:
        given = next(value for value in fields.values() if value is not None)
        raise typer.BadParameter(
            f"{given!r} is no id of ours; anime-studio operator list shows them"
        ) from None


def _act(action: OperatorAction, url: str, key: str | None, *, as_json: bool) -> None:
    with answering(as_json=as_json) as output, studio_at(url) as studio:
        answer = studio.operate(action, key)
        done = {
            OperatorVerb.PAUSE: "new orders are refused; take them again with: anime-studio operator resume",
            OperatorVerb.RESUME: "new orders are taken",
        }.get(action.action, f"{answer.changed} {'job' if answer.changed == 1 else 'jobs'} cancelled")
        if action.clip_id is not None:
            done = f"clip {action.clip_id} is {'off' if action.action is OperatorVerb.HIDE else 'on'} its channel"
        output.result(answer, done)


def _head(view: OperatorView) -> str:
    spend = view.spend
    paused = "orders are paused; " if view.paused else ""
    return (
        f"{paused}{view.readiness.queued} waiting, {view.readiness.running} being drawn; "
        f"${spend.today_usd:.4f} today, ${spend.month_usd:.4f} this month"
    )


def _line(job: OperatorJob) -> str:
    who = f"  {job.requested_by}" if job.requested_by else ""
    name = job.clip_id if job.state.final else job.job_id
    return (
        f"{_state(job):<12} {name}{who}  {job.age_s:.0f} s  {job.prompt}{'  (hidden)' if job.hidden else ''}"
    )


def _state(job: OperatorJob) -> str:
    if job.state is JobState.RUNNING and job.stage is not None:
        return STAGE_WORDS.get(job.stage, job.stage)
    return job.state.value


def jobs_table(view: OperatorView, most: int = 12) -> Table:
    """Return the operator's jobs for a terminal: whose prompt is drawn, and what waits."""
    table = Table("job", "who", "age", "$", "prompt", box=None, padding=(0, 2), header_style="dim")
    for job in view.jobs[:most]:
        usd = "" if job.usd is None else f"{job.usd:.4f}"
        prompt = visible(job.prompt)[:80] + (" (hidden)" if job.hidden else "")
        style = "" if not job.state.final else "dim"
        table.add_row(
            _state(job), visible(job.requested_by or ""), f"{job.age_s:.0f} s", usd, prompt, style=style
        )
    return table


class Keys:
    """What the operator presses while `watch` runs; each key is one act."""

    def __init__(self, studio: StudioClient, key: str | None) -> None:
        self._studio, self._key = studio, key
        self._clear_asked_at = float("-inf")
        self.said: Text = Text(KEYS_HELP, style="dim")

    def press(self, pressed: str) -> None:
        """Do what the key means, and keep in `said` what came of it."""
        try:
            words = self._press(pressed)
        except StudioError as error:
            words = Text(visible(str(error)), style="red")
        if words is not None:
            self.said = words if isinstance(words, Text) else Text(words, style="yellow")

    def _press(self, pressed: str) -> str | Text | None:
        if pressed not in ("p", "s", "h", "c"):
            return None
        view = self._studio.operator_view(self._key)
        if pressed == "p":
            verb = OperatorVerb.RESUME if view.paused else OperatorVerb.PAUSE
            self._studio.operate(OperatorAction(action=verb), self._key)
            return "orders are open again" if view.paused else "orders are paused"
        if pressed == "s":
            running = next((job for job in view.jobs if job.state is JobState.RUNNING), None)
            if running is None:
                return "no job is running"
            self._studio.operate(OperatorAction(action=OperatorVerb.CANCEL, job_id=running.job_id), self._key)
            return f"stopping: {visible(running.prompt)[:80]}"
        if pressed == "h":
            newest = next(
                (job for job in view.jobs if job.state is JobState.SUCCEEDED and not job.hidden), None
            )
            if newest is None:
                return "no clip to hide"
            self._studio.operate(OperatorAction(action=OperatorVerb.HIDE, clip_id=newest.clip_id), self._key)
            return f"hidden: {visible(newest.prompt)[:80]}"
        if time.monotonic() - self._clear_asked_at > CONFIRM_WITHIN_S:
            self._clear_asked_at = time.monotonic()
            return "press c again to cancel every job that waits"
        answer = self._studio.operate(OperatorAction(action=OperatorVerb.CLEAR), self._key)
        return f"{answer.changed} waiting jobs cancelled"


@contextmanager
def single_keys() -> Iterator[bool]:
    """Let keys arrive without Enter while the block runs; False where standard input is no terminal."""
    try:
        import termios
        import tty

        before = termios.tcgetattr(sys.stdin)
    except (ImportError, OSError, ValueError, termios.error):
        yield False
        return
    try:
        tty.setcbreak(sys.stdin)
        yield True
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def key_within(seconds: float) -> str | None:
    """Return the next key, or None after *seconds*."""
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    return sys.stdin.read(1) if ready else None
