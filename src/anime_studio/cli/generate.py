"""`generate` and `fetch`: save the clip of a prompt, or of an earlier job."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final
from uuid import uuid4

import typer

from anime_studio.cli.output import ExitCode, JsonOption, Output, TimeoutOption, UrlOption, answering
from anime_studio.cli.progress import progress_of
from anime_studio.cli.receipt import receipt_of
from anime_studio.client import DEFAULT_URL, JobEndedError, StudioClient, StudioError
from anime_studio.client.requests import Options
from common.schemas import Job, Resolution

STOPPING_S: Final = 60.0
"""Longest wait for a cancelled job to stop at its next step."""

OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="Where to save the clip. Default: clip-<id>.mp4 here; with --json nothing is saved unless given.",
        dir_okay=False,
    ),
]
ForceOption = Annotated[bool, typer.Option("--force", "-f", help="Replace the file if it exists.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(generate)
    app.command()(fetch)


def generate(
    prompt: Annotated[str, typer.Argument(help="What to draw, in English.")],
    duration: Annotated[float | None, typer.Option(help="Seconds; default 5.")] = None,
    resolution: Annotated[Resolution | None, typer.Option(help="Default 480p; 1080p where offered.")] = None,
    seed: Annotated[int | None, typer.Option(help="Noise seed; drawn when absent.")] = None,
    num_inference_steps: Annotated[int | None, typer.Option("--steps", help="Denoise steps.")] = None,
    guidance_scale: Annotated[float | None, typer.Option("--guidance", help="1 means none.")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What to avoid.")] = None,
    deadline_s: Annotated[
        float | None, typer.Option("--deadline", help="Drop it if not ready in so many seconds.")
    ] = None,
    channel: Annotated[str | None, typer.Option(help="Overlay channel that plays it.")] = None,
    requested_by: Annotated[
        str | None, typer.Option(help="Name to show with the clip.", metavar="NAME")
    ] = None,
    out: OutOption = None,
    force: ForceOption = False,
    timeout_s: TimeoutOption = None,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Draw a clip and save it. Ctrl-C cancels the job; a second Ctrl-C leaves at once."""
    given = {
        "duration": duration,
        "resolution": resolution,
        "seed": seed,
        "num_inference_steps": num_inference_steps,
        "guidance_scale": guidance_scale,
        "negative_prompt": negative_prompt,
        "deadline_s": deadline_s,
        "channel": channel,
        "requested_by": requested_by,
        "source": "cli",
    }
    options: Options = {name: value for name, value in given.items() if value is not None}  # type: ignore[assignment]
    with answering(as_json=as_json) as output, studio_at(url) as studio:
        refuse_to_replace(out, force=force)
        job = submit_and_wait(studio, output, prompt, options, timeout_s)
        save(studio, output, job, out, force=force)


def fetch(
    job_id: Annotated[str, typer.Argument(help="The job's id.")],
    out: OutOption = None,
    force: ForceOption = False,
    timeout_s: TimeoutOption = None,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Wait for a job made earlier and save its clip. Ctrl-C leaves the job alone."""
    with answering(as_json=as_json) as output, studio_at(url) as studio:
        refuse_to_replace(out, force=force)
        with progress_of(output) as show, printing_ended_job(output):
            job = studio.resume(job_id, timeout_s, show)
        save(studio, output, job, out, force=force)


def studio_at(url: str) -> StudioClient:
    """Return a client that gives up soon when nothing answers."""
    try:
        return StudioClient(url, retry_for_s=2.0)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--url") from None


def refuse_to_replace(out: Path | None, *, force: bool) -> None:
    """Refuse before the clip is rendered and paid for."""
    if out is None:
        return
    if out.exists() and not force:
        raise typer.BadParameter(
            f"{out} exists; choose another name, or replace it with --force", param_hint="--out"
        )
    if not out.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {out.parent}", param_hint="--out")


def submit_and_wait(
    studio: StudioClient, output: Output, prompt: str, options: Options, timeout_s: float | None
) -> Job:
    """Render a clip; an interrupt cancels the job, also one before the server has answered."""
    key = uuid4().hex
    job: Job | None = None
    try:
        with progress_of(output) as show, printing_ended_job(output):
            job = studio.submit(prompt, idempotency_key=key, **options)
            output.info(f"job {job.job_id}, seed {job.request.seed}")
            for note in job.notes:
                output.info(f"note: {note.detail}")
            return studio.wait(job.job_id, timeout_s, show)
    except KeyboardInterrupt:
        job = job or studio.submit(prompt, idempotency_key=key, **options)
        cancel_interrupted(studio, output, job)
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def cancel_interrupted(studio: StudioClient, output: Output, job: Job) -> None:
    """Cancel *job* and wait until it has stopped, or until a second interrupt."""
    output.info(f"cancelling job {job.job_id}; Ctrl-C again leaves at once")
    try:
        if not studio.cancel(job.job_id).state.final:
            studio.wait(job.job_id, STOPPING_S)
        job = studio.get(job.job_id)
    except JobEndedError as error:
        job = error.job
    except KeyboardInterrupt:
        output.info(f"left; see: anime-studio status {job.job_id}")
        return
    output.result(job, f"job {job.job_id} is {job.state}")


@contextmanager
def printing_ended_job(output: Output) -> Iterator[None]:
    """With `--json`, print a job that ended without a clip as the result."""
    try:
        yield
    except JobEndedError as error:
        if output.as_json:
            output.result(error.job, "")
        raise


def save(studio: StudioClient, output: Output, job: Job, out: Path | None, *, force: bool) -> None:
    """Save the clip and print the job or its receipt."""
    if out is None and output.as_json:
        output.result(job, "")
        return
    assert job.clip is not None
    path = out or Path(f"clip-{job.clip.clip_id[2:10]}.mp4")
    if path.exists() and not force and out is None:
        output.info(f"{path} is this clip already; --force fetches it again")
    else:
        try:
            studio.download(job, path, replace=force)
        except FileExistsError:
            _report_stored(output, job)
            raise FileExistsError(
                errno.EEXIST, "was made meanwhile; choose another name, or replace it with --force", str(path)
            ) from None
        except (StudioError, OSError, KeyboardInterrupt):
            _report_stored(output, job)
            raise
    output.result(job, receipt_of(job, path))


def _report_stored(output: Output, job: Job) -> None:
    output.info(f"the clip is drawn and kept; fetch it again with: anime-studio fetch {job.job_id}")
