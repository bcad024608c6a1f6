"""`modal run -m anime_studio.modal_app --prompt …`: one clip by hand, through the real queue, with progress.

It stores and starts the job as the web container does, and needs neither the web container nor its packages.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import modal
from rich.console import Console

from anime_studio.core.clip import new_seed, plan
from anime_studio.core.clock import SystemClock
from anime_studio.core.errors import EngineError
from anime_studio.core.ids import new_request_id
from anime_studio.core.jobs import Asset, Backlog, JobRecord, StoredClip
from anime_studio.on_modal.dicts import JobDicts
from anime_studio.on_modal.job_store import ModalJobs
from anime_studio.on_modal.settings import ModalSettings
from common.schemas import GenerateRequest, JobState


async def generate_and_save(
    asked: Mapping[str, Any],
    out: Path,
    *,
    settings: ModalSettings,
    dicts: JobDicts,
    outputs: modal.Volume,
    render: modal.Function[..., Any, Any],
) -> None:
    """Generate the clip that *asked* describes and write its MP4 to *out*.

    Args:
        asked: Fields of `GenerateRequest`.
        out: A path; an existing file is overwritten.
        settings: Of the deployment.
        dicts: Where jobs are stored.
        outputs: Where clips are stored.
        render: The method that renders a job.

    Raises:
        AnimeStudioError: The request is refused, or the job failed; the detail says why.
    """
    console = Console(stderr=True)
    job = _job(asked, settings)
    jobs = ModalJobs(dicts, clock=SystemClock(), backlog=_no_backlog)
    await jobs.add(job, None)
    call = await render.spawn.aio(job.model_dump(mode="json"))
    await jobs.note_call(job.job_id, call.object_id)
    with console.status("waiting for a container") as status:
        async for newer in jobs.changes(job.job_id, after=job.version):
            job = newer
            status.update(_line(job))
    if job.state is not JobState.SUCCEEDED or job.clip is None:
        raise EngineError(job.error.detail if job.error else f"job {job.job_id} ended as {job.state}")
    out.write_bytes(await _read(outputs, job.clip))  # noqa: ASYNC240  nothing else runs here
    cost = f", ${job.cost.usd:.4f} ({job.cost.basis})" if job.cost else ""
    console.print(f"{out}: {job.clip.size_bytes} bytes, {job.start_kind} start{cost}")


def _job(asked: Mapping[str, Any], settings: ModalSettings) -> JobRecord:
    recipe = settings.offered
    request = GenerateRequest.model_validate({**asked, "source": "manual"})
    spec = plan(
        request,
        recipe,
        model_revision=recipe.revision,
        seed=new_seed(),
        decoder=settings.decoder,
        compose_prompt=settings.compose_prompts,
    )
    return JobRecord.submitted(request, spec, request_id=new_request_id(), now=SystemClock().now())


def _line(job: JobRecord) -> str:
    step = f" step {job.progress.step}/{job.progress.total_steps}" if job.progress.total_steps else ""
    return f"{job.state}{f', {job.stage}' if job.stage else ''}{step}, {job.progress.fraction:.0%}"


async def _read(outputs: modal.Volume, clip: StoredClip) -> bytes:
    return b"".join([chunk async for chunk in outputs.read_file.aio(clip.file_name(Asset.VIDEO))])


async def _no_backlog() -> Backlog:
    return Backlog(queued=0, running=0)
