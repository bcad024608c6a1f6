"""`status` and `cancel`: show a job or the server, stop a job."""

from __future__ import annotations

from typing import Annotated

import typer

from anime_studio.cli.generate import studio_at
from anime_studio.cli.output import ExitCode, JsonOption, Output, UrlOption, answering
from anime_studio.cli.progress import describe
from anime_studio.client import DEFAULT_URL, StudioClient
from common.schemas import Job, JobState

JobId = Annotated[str, typer.Argument(help="The job's id.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(status)
    app.command()(cancel)


def status(
    job_id: Annotated[str | None, typer.Argument(help="A job's id; without one, the server.")] = None,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Tell how a job or the server is. Ends with 0 unless the job has failed or the server is not ready."""
    with answering(as_json=as_json) as output, studio_at(url) as studio:
        if job_id is None:
            _show_server(studio, output)
            return
        job = studio.get(job_id)
        output.result(job, "\n".join((_line(job), *(f"note: {note.detail}" for note in job.notes))))
        if job.state.final and job.state is not JobState.SUCCEEDED:
            raise typer.Exit(ExitCode.FAILED)


def cancel(job_id: JobId, url: UrlOption = DEFAULT_URL, as_json: JsonOption = False) -> None:
    """Cancel a job: a queued one at once, a running one at its next step. A finished job is left as it is."""
    with answering(as_json=as_json) as output, studio_at(url) as studio:
        job = studio.cancel(job_id)
        output.result(job, _line(job) if job.state.final else f"job {job.job_id} stops at its next step")


def _show_server(studio: StudioClient, output: Output) -> None:
    health, readiness = studio.health(), studio.ready()
    output.result(
        {"health": health.model_dump(mode="json"), "readiness": readiness.model_dump(mode="json")},
        f"{'ready' if readiness.ready else 'not ready'}: {readiness.detail}\n"
        f"recipe {health.recipe}, version {health.version}, up {health.uptime_s:.0f} s, "
        f"{readiness.queued} queued, {readiness.running} running",
    )
    if not readiness.ready:
        raise typer.Exit(ExitCode.UNAVAILABLE)


def _line(job: Job) -> str:
    line = f"job {job.job_id}: {describe(job)}"
    if job.error is not None:
        return f"{line}: {job.error.detail} [{job.error.code}]"
    if job.state is JobState.SUCCEEDED:
        clip = f"save it with: anime-studio fetch {job.job_id}" if job.clip else "its clip was swept"
        return f"{line}; {clip}"
    return line
