"""`modal run -m anime_studio.modal_app --prompt …`: one clip by hand, through the real queue, with progress.

It keeps and spawns the job as the web container does, and needs neither the web container nor its packages.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import modal
from rich.console import Console

from anime_studio.core.clip import plan
from anime_studio.core.clock import SystemClock
from anime_studio.core.errors import EngineError
from anime_studio.core.jobs import Asset, Backlog, JobRecord, StoredClip
from anime_studio.core.recipes import get_recipe
from anime_studio.modal_settings import ModalSettings
from anime_studio.storage.modal_dicts import JobDicts
from anime_studio.storage.modal_jobs import ModalJobs
from common.schemas import SEED_MAX, GenerateRequest, JobState


async def draw_and_save(
    wanted: Mapping[str, Any],
    out: Path,
    *,
    settings: ModalSettings,
    dicts: JobDicts,
    outputs: modal.Volume,
    render: modal.Function[..., Any, Any],
) -> None:
    """Draw *wanted* and write the MP4 to *out*.

    Raises:
        AnimeStudioError: The request cannot be drawn, or the job failed; the detail says why.
    """
    console = Console(stderr=True)
    job = _job(wanted, settings)
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


def _job(wanted: Mapping[str, Any], settings: ModalSettings) -> JobRecord:
    recipe = get_recipe(settings.recipe)
    spec = plan(
        GenerateRequest.model_validate(wanted),
        recipe,
        model_revision=recipe.revision,
        seed=secrets.randbelow(SEED_MAX + 1),
        compose_prompt=settings.compose_prompts,
    )
    return JobRecord(
        job_id=f"j_{secrets.token_hex(16)}",
        clip_id=f"c_{secrets.token_hex(16)}",
        request_id=f"r_{secrets.token_hex(8)}",
        spec=spec,
        source="manual",
        created_at=datetime.now(UTC),
    )


def _line(job: JobRecord) -> str:
    step = f" step {job.progress.step}/{job.progress.total_steps}" if job.progress.total_steps else ""
    return f"{job.state}{f', {job.stage}' if job.stage else ''}{step}, {job.progress.fraction:.0%}"


async def _read(outputs: modal.Volume, clip: StoredClip) -> bytes:
    name = f"{clip.clip_id}.{clip.sha256[:16]}{Asset.VIDEO.suffix}"
    return b"".join([chunk async for chunk in outputs.read_file.aio(name)])


async def _no_backlog() -> Backlog:
    return Backlog(queued=0, running=0)
