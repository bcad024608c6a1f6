"""The Modal app `anime-studio`: a GPU class that draws, a web function that serves, and two that keep house.

A composition root and nothing more: what happens inside is in `generator`, `worker`, `web` and `storage`, the
same as on a laptop wherever it can be. Every container imports this module, so all that stands at its top is
light and in both images. Deploy it with `anime-studio deploy`, or
`modal deploy -m anime_studio.modal_app`, or `modal deploy src/anime_studio/modal_app.py`.

Every rule about Modal that this rests on is in docs/deploy.md, with its source.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import modal

from anime_studio import __version__
from anime_studio.core.clock import SystemClock
from anime_studio.core.recipes import get_recipe
from anime_studio.modal_images import gpu_image, web_image
from anime_studio.modal_settings import (
    APP_NAME,
    MODELS_MOUNT,
    MODELS_VOLUME,
    OUTPUTS_MOUNT,
    SCRATCH,
    SETUP_COMMAND,
    ModalSettings,
)
from anime_studio.modal_stores import dicts, models, outputs, signing_keys

settings = ModalSettings.read()
drawing, serving = gpu_image(settings), web_image(settings)

app = modal.App(APP_NAME, tags=settings.tags)

with serving.imports():  # type: ignore[no-untyped-call]  # at the top, so that the web container's memory snapshot holds them
    from anime_studio.core.signing import UrlSigner
    from anime_studio.core.studio import Policy, Studio
    from anime_studio.storage.modal_jobs import ModalJobs
    from anime_studio.storage.modal_launcher import ModalLauncher, backlog_of
    from anime_studio.storage.modal_secret import read_keys
    from anime_studio.storage.volume_clips import VolumeClips, sweep_clips
    from anime_studio.storage.volume_weights import VolumeWeights
    from anime_studio.telemetry import configure_logging, log_job
    from anime_studio.web.app import create_app
    from anime_studio.web.options import WebOptions
    from anime_studio.web.public_address import PublicAddressMiddleware


@app.cls(
    image=drawing,
    gpu=settings.gpu,
    cpu=settings.cpu_cores,
    memory=int(settings.memory_gib * 1024),
    volumes={str(MODELS_MOUNT): models.with_mount_options(read_only=True), str(OUTPUTS_MOUNT): outputs},
    enable_memory_snapshot=settings.snapshot != "off",
    experimental_options={"enable_gpu_snapshot": settings.snapshot == "gpu"},
    min_containers=settings.min_containers,
    max_containers=settings.max_containers,
    buffer_containers=settings.buffer_containers,
    scaledown_window=settings.scaledown_window_s,
    timeout=settings.timeout_s,
    startup_timeout=settings.startup_timeout_s,
)
class Generator:
    """Draws clips, one at a time; `anime_studio.generator` says how it comes to be ready."""

    @modal.enter(snap=settings.snapshot != "off")
    def load_model(self) -> None:
        """Do what a memory snapshot should save."""
        from anime_studio.generator import GeneratorWorker
        from anime_studio.telemetry import configure_logging

        configure_logging(settings, component="worker")
        self.worker = GeneratorWorker(settings)
        self.worker.before_snapshot()

    @modal.enter(snap=False)
    def wake(self) -> None:
        """Be ready, whether a snapshot was restored or not."""
        self.worker.after_snapshot()
        if self.worker.device_failed and not modal.is_local():
            modal.experimental.stop_fetching_inputs()  # Modal's guide: leave a host whose GPU fails

    @modal.method()
    def render(self, job: dict[str, Any]) -> dict[str, Any]:
        """Draw a kept job, store its clip, keep its end; a `JobRecord` as JSON comes and goes."""
        from anime_studio.storage.modal_desk import ModalDesk
        from anime_studio.storage.volume_clips import MountedClips

        call_id = modal.current_function_call_id() or "local"
        desk = ModalDesk(dicts, call_id, clock=SystemClock(), max_attempts=settings.max_attempts)
        return self.worker.render(job, desk, MountedClips(OUTPUTS_MOUNT, outputs.commit))

    @modal.method()
    def generate(
        self,
        prompt: str,
        duration: float = 5.0,
        resolution: str = "480p",
        seed: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str | None = None,
    ) -> bytes:
        """Return a clip's MP4; nothing is kept of it. The arguments are those of `POST /generate`."""
        from anime_studio.core.errors import AnimeStudioError
        from common.schemas import GenerateRequest

        wanted = {key: value for key, value in locals().items() if key in GenerateRequest.model_fields}
        try:
            return self.worker.draw(GenerateRequest.model_validate(wanted))
        except AnimeStudioError as error:
            raise RuntimeError(f"{error.code}: {error.detail}") from None  # a type that every caller has

    @modal.method()
    def warm(self) -> None:
        """Nothing: by the time it runs, the container is ready."""


@app.function(
    image=serving,
    secrets=[signing_keys],
    enable_memory_snapshot=True,
    min_containers=settings.web_min_containers,
    max_containers=settings.web_max_containers,
    scaledown_window=settings.web_scaledown_window_s,
    timeout=settings.web_timeout_s,
    startup_timeout=60,
)
@modal.concurrent(max_inputs=settings.web_max_inputs, target_inputs=max(1, settings.web_max_inputs * 4 // 5))
@modal.asgi_app(custom_domains=[settings.custom_domain] if settings.custom_domain else None)
def web() -> Any:
    """Serve the same HTTP app as on a laptop."""
    configure_logging(settings, component="server")
    addresses: list[str] = []
    options = WebOptions(
        recipe=settings.recipe,
        version=__version__,
        base_url=settings.base_url,
        generate_wait_s=settings.generate_wait_s,
    )

    @asynccontextmanager
    async def open_with_addresses() -> AsyncIterator[Studio]:
        own = await web.get_web_url.aio()
        custom = f"https://{settings.custom_domain}" if settings.custom_domain else None
        addresses[:] = [address.rstrip("/") for address in (custom, own) if address]
        yield open_studio()

    return PublicAddressMiddleware(create_app(open_with_addresses, options), lambda: addresses)


def open_studio() -> Studio:
    """Return the studio over this deployment; after a restore, because the signing keys may have changed."""
    generator, clock = Generator(), SystemClock()
    recipe = get_recipe(settings.recipe)
    jobs = ModalJobs(
        dicts,
        clock=clock,
        backlog=lambda: backlog_of(generator.render),
        tell=lambda job: log_job(job, log_prompts=settings.log_prompts),
    )

    def on_found(revision: str) -> None:
        studio.model_revision = revision

    weights = VolumeWeights(
        models, recipe, volume_name=MODELS_VOLUME, fetch_with=SETUP_COMMAND, on_found=on_found
    )
    studio = Studio(
        recipe=recipe,
        model_revision=recipe.revision,
        jobs=jobs,
        launcher=ModalLauncher(
            jobs, render=generator.render, warm=generator.warm, require_weights=weights.require
        ),
        clips=VolumeClips(outputs, SCRATCH / "clips", max_bytes=settings.clip_cache_bytes),
        signer=UrlSigner(read_keys(os.environ)),
        policy=Policy(
            max_queued_jobs=settings.max_queued_jobs,
            url_ttl=timedelta(seconds=settings.url_ttl_s),
            compose_prompts=settings.compose_prompts,
            machine=settings.machine,
            budget_usd_per_clip=settings.budget_usd_per_clip,
        ),
    )
    return studio


@app.function(image=serving, schedule=modal.Period(hours=1), max_containers=1, timeout=900)
async def clean() -> None:
    """Delete clips and job records whose time is over."""
    configure_logging(settings, component="cleaner")
    clock = SystemClock()
    await sweep_clips(outputs, clock.now(), timedelta(seconds=settings.clip_ttl_s))
    jobs = ModalJobs(dicts, clock=clock, backlog=lambda: backlog_of(Generator().render))
    await jobs.sweep(timedelta(seconds=settings.job_ttl_s))


@app.function(
    image=drawing,
    volumes={str(MODELS_MOUNT): models},
    env={"HF_XET_HIGH_PERFORMANCE": "1"},
    cpu=4.0,
    memory=16384,  # the text encoder in bfloat16 is 11.4 GB, and is packed in main memory
    max_containers=1,
    timeout=4 * 3600,
)
def setup(recipe: str = settings.recipe) -> str:
    """Fetch a recipe's weights into the Volume and prepare them for this deployment; safe to interrupt and repeat."""
    from anime_studio.engine.preparing import packing_of, prepare
    from anime_studio.prepared import Forms
    from anime_studio.weights import fetch

    wanted = get_recipe(recipe)
    checkpoint = fetch(wanted, MODELS_MOUNT)
    models.commit()  # a container that starts from here on finds them
    print(f"{recipe}: revision {checkpoint.revision} is complete")  # noqa: T201  seen by who runs it
    packing = packing_of(
        "cuda" if settings.gpu and settings.device != "cpu" else "cpu", accelerate=settings.accelerate
    )
    folder = prepare(Forms.of(wanted, checkpoint.folder, MODELS_MOUNT), packing)
    models.commit()
    print(f"{recipe}: prepared for fast loading in {folder.name}")  # noqa: T201
    return checkpoint.revision


@app.local_entrypoint()
async def main(
    prompt: str, out: str = "clip.mp4", duration: float = 5.0, resolution: str = "480p", seed: int = -1
) -> None:
    """Draw one clip through the real queue and containers, show its progress, and save it."""
    from anime_studio.modal_try import draw_and_save

    wanted = {
        "prompt": prompt,
        "duration": duration,
        "resolution": resolution,
        "seed": None if seed < 0 else seed,
    }
    await draw_and_save(
        wanted, Path(out), settings=settings, dicts=dicts, outputs=outputs, render=Generator().render
    )
