"""The Modal app `anime-studio`: the classes `Generator` on a GPU and `TextEncoder` on a CPU, and three functions.

This is a composition root and nothing more: the code it puts together is in `on_modal`, `job_runner`, `engine` and
`web`. Every container imports this module, so the imports at its top are light and both images have them. Deploy it
with `anime-studio deploy`, `modal deploy -m anime_studio.modal_app`, or `modal deploy src/anime_studio/modal_app.py`.

Every rule about Modal that this app relies on is in docs/deploy.md, with its source.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import modal

from anime_studio.core.clock import SystemClock
from anime_studio.core.recipes import get_recipe, require_decoder
from anime_studio.on_modal import images
from anime_studio.on_modal.resources import dicts, models, outputs, signing_keys
from anime_studio.on_modal.settings import (
    APP_NAME,
    MODELS_MOUNT,
    MODELS_VOLUME,
    OUTPUTS_MOUNT,
    SCRATCH,
    TEXT_CPU_CORES,
    ModalSettings,
)

CLIP_CACHE_BYTES: Final = 1024**3
"""Clips on a web container's disk: a range of a cached clip is served without the network."""

SPEND_KEPT_DAYS: Final = 40
"""The month's budget needs 31."""

settings = ModalSettings.read()
generator_image = images.generator_image(settings)
encoder_image, server_image = images.cpu_image(settings), images.web_image(settings)

app = modal.App(APP_NAME, tags=settings.tags)

with server_image.imports():  # type: ignore[no-untyped-call]  # at the top, so that the web container's snapshot holds them
    from anime_studio.core.policy import Policy
    from anime_studio.core.signing import UrlSigner
    from anime_studio.core.spend import day_of, spent_by_day
    from anime_studio.core.studio import MOST_COUNTED, Studio
    from anime_studio.on_modal.clips import VolumeClips, sweep_clips
    from anime_studio.on_modal.job_store import ModalJobs
    from anime_studio.on_modal.launcher import ModalLauncher, TextMethods, backlog_of
    from anime_studio.on_modal.signing_keys import read_keys, read_operator_key
    from anime_studio.on_modal.weights import VolumeWeights
    from anime_studio.telemetry import configure_logging, log_job
    from anime_studio.web.app import create_app
    from anime_studio.web.middleware.public_address import PublicAddressMiddleware


@app.cls(
    image=encoder_image,
    cpu=TEXT_CPU_CORES,
    memory=int(settings.text_machine.memory_gib * 1024),
    volumes={str(MODELS_MOUNT): models.with_mount_options(read_only=True)},
    enable_memory_snapshot=settings.snapshot != "off",
    min_containers=settings.text_min_containers,
    max_containers=max(settings.max_containers, settings.text_min_containers),
    scaledown_window=settings.scaledown_window_s,
    timeout=300,
    startup_timeout=settings.startup_timeout_s,
)
class TextEncoder:
    """Encodes prompts on a CPU; `anime_studio.on_modal.text_worker` describes it."""

    @modal.enter(snap=settings.snapshot != "off")
    def load_encoder(self) -> None:
        """Do what a memory snapshot should hold."""
        from anime_studio.on_modal.text_worker import TextWorker
        from anime_studio.telemetry import configure_logging

        configure_logging(settings, component="text")
        self.worker = TextWorker(settings, refresh=models.reload)
        self.worker.load()

    @modal.enter(snap=False)
    def wake(self) -> None:
        """Load what a snapshot that was made without weights lacks."""
        self.worker.load()

    @modal.method()
    def encode(self, spec: dict[str, Any], revision: str | None = None) -> dict[str, Any]:
        """Return a clip's text. See `TextWorker.encode`."""
        return self.worker.encode(spec, revision)

    @modal.method()
    def warm(self) -> None:
        """Do nothing: when this runs, the container is ready."""


@app.cls(
    image=generator_image,
    gpu=settings.gpu,
    cpu=(
        settings.cpu_cores,
        settings.cpu_cores,
    ),  # what is asked for, and the limit: the receipt counts no more
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
    """Renders clips, one at a time; `anime_studio.on_modal.gpu_worker` describes how a container becomes ready."""

    @modal.enter(snap=settings.snapshot != "off")
    def load_model(self) -> None:
        """Do what a memory snapshot should hold."""
        from anime_studio.on_modal.gpu_worker import GpuWorker
        from anime_studio.telemetry import configure_logging

        configure_logging(settings, component="worker")
        self.worker = GpuWorker(settings, text=_text(), kernels=_kernels(), refresh=models.reload)
        self.worker.before_snapshot()

    @modal.enter(snap=False)
    def wake(self) -> None:
        """Make the container ready, whether a snapshot was restored or not."""
        from anime_studio.on_modal import gpu_failures

        self.worker.after_snapshot()
        if modal.is_local() or not settings.uses_gpu:
            return
        if not self.worker.device_failed:
            gpu_failures.forget_soon(dicts.jobs)
        elif not gpu_failures.note(dicts.jobs, self.worker.error):
            modal.experimental.stop_fetching_inputs()  # Modal's guide: leave a host whose GPU fails

    @modal.method()
    def render(self, job: dict[str, Any], text_call_id: str | None = None) -> dict[str, Any]:
        """Render a stored job and store its clip and its end. See `GpuWorker.render`."""
        from anime_studio.on_modal.clips import MountedClips
        from anime_studio.on_modal.worker_store import ModalWorkerStore

        call_id = modal.current_function_call_id() or "local"
        worker_store = ModalWorkerStore(
            dicts, call_id, clock=SystemClock(), max_attempts=settings.max_attempts
        )
        clips = MountedClips(OUTPUTS_MOUNT, outputs.commit)
        return self.worker.render(job, worker_store, clips, text_call_id)

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
        """Return a clip's MP4, which is not stored. The arguments are those of `POST /generate`."""
        from anime_studio.core.errors import AnimeStudioError
        from common.schemas import GenerateRequest

        asked = {key: value for key, value in locals().items() if key in GenerateRequest.model_fields}
        try:
            return self.worker.generate(GenerateRequest.model_validate(asked))
        except AnimeStudioError as error:
            raise RuntimeError(
                f"{error.code}: {error.detail}"
            ) from None  # a class that every caller can unpickle

    @modal.method()
    def warm(self) -> None:
        """Do nothing: when this runs, the container is ready."""

    @modal.method()
    def report(self) -> dict[str, Any]:
        """Return what this container is, a `ContainerReport` as JSON values; for `anime-studio prove`."""
        from anime_studio.prove.container import report_of

        return report_of(self.worker).model_dump(mode="json")


@app.cls(
    image=generator_image,
    gpu=settings.gpu,
    cpu=(settings.cpu_cores, settings.cpu_cores),
    memory=int(settings.memory_gib * 1024),
    volumes={str(MODELS_MOUNT): models.with_mount_options(read_only=True)},
    max_containers=1,
    scaledown_window=settings.scaledown_window_s,
    timeout=3600,  # of one row: four clips, each by an engine of its own
    startup_timeout=settings.startup_timeout_s,
)
class Prover:
    """Checks rows of `anime-studio prove` on the weights, the card and the image that are deployed; no job comes here."""

    @modal.enter()
    def open(self) -> None:
        """Import what the rows need."""
        from anime_studio.prove.container import Prover as ContainerProver
        from anime_studio.telemetry import configure_logging

        configure_logging(settings, component="prover")
        self.prover = ContainerProver(settings, text=_text, kernels=_kernels, refresh=models.reload)

    @modal.method()
    def plain_start(self) -> dict[str, Any]:
        """Start as a container without a snapshot does. See `anime_studio.prove.container`."""
        return self.prover.plain_start()

    @modal.method()
    def check(self, name: str, prompt: str) -> dict[str, Any]:
        """Check one row. See `anime_studio.prove.container`."""
        return self.prover.check(name, prompt)


def _kernels() -> Any:
    """Return what keeps compiled kernels on the Volume, or None where nothing is compiled."""
    from anime_studio.on_modal.kernels import StoredKernels

    return StoredKernels(models) if settings.uses_gpu and settings.accelerate else None


def _text() -> Any:
    """Return where the GPU container's text comes from: the text container, or None for an encoder of its own."""
    if settings.text == "gpu":
        return None
    from anime_studio.on_modal.remote_text import RemoteText

    recipe = get_recipe(settings.recipe)
    return RemoteText(lambda: TextEncoder().encode, max_sequence_length=recipe.max_sequence_length)


@app.function(
    image=server_image,
    secrets=[signing_keys],
    enable_memory_snapshot=True,
    max_containers=4,
    scaledown_window=300,
    timeout=3600,  # of one request: an event stream that is longer ends here, and its client opens another
    startup_timeout=60,
)
@modal.concurrent(max_inputs=100, target_inputs=80)
@modal.asgi_app(custom_domains=[settings.custom_domain] if settings.custom_domain else None)
def web() -> Any:
    """Serve the same HTTP app as on a laptop."""
    configure_logging(settings, component="server")
    addresses: list[str] = []

    @asynccontextmanager
    async def open_with_addresses() -> AsyncIterator[Studio]:
        own = await web.get_web_url.aio()
        custom = f"https://{settings.custom_domain}" if settings.custom_domain else None
        addresses[:] = [address.rstrip("/") for address in (custom, own) if address]
        yield open_studio()

    return PublicAddressMiddleware(create_app(open_with_addresses, settings.web_options()), lambda: addresses)


def open_studio() -> Studio:
    """Return the studio of this deployment. Call it after a restore, because the signing keys may have changed."""
    generator, clock = Generator(), SystemClock()
    encoder = TextEncoder()
    recipe = settings.offered
    jobs = ModalJobs(
        dicts,
        clock=clock,
        backlog=lambda: backlog_of(generator.render),
        on_ended=lambda job: log_job(job, log_prompts=settings.log_prompts),
    )
    weights = VolumeWeights(models, recipe, settings.decoder, volume_name=MODELS_VOLUME)
    return Studio(
        recipe=recipe,
        jobs=jobs,
        launcher=ModalLauncher(
            jobs,
            render=generator.render,
            warm=generator.warm,
            text=TextMethods(encoder.encode, encoder.warm) if settings.text == "cpu" else None,
            require_weights=weights.require,
        ),
        clips=VolumeClips(outputs, SCRATCH / "clips", max_bytes=CLIP_CACHE_BYTES),
        signer=UrlSigner(read_keys(os.environ)),
        policy=policy_of_container(),
    )


def policy_of_container() -> Policy:
    """Return what the studio allows; the operator's key comes from the Secret."""
    return replace(settings.policy(), operator_key=read_operator_key(os.environ))


@app.function(image=server_image, schedule=modal.Period(hours=1), max_containers=1, timeout=900)
async def clean() -> None:
    """Delete expired clips and job records, after their costs are added up, and end jobs that were lost."""
    configure_logging(settings, component="cleaner")
    clock = SystemClock()
    await sweep_clips(outputs, clock.now(), timedelta(seconds=settings.clip_ttl_s))
    jobs = ModalJobs(dicts, clock=clock, backlog=lambda: backlog_of(Generator().render))
    by_day = spent_by_day(await jobs.finished_since(None, MOST_COUNTED), settings.policy(), clock.now())
    await jobs.show.note_spent(by_day, oldest_day=day_of(clock.now() - timedelta(days=SPEND_KEPT_DAYS)))
    await jobs.sweep(timedelta(seconds=settings.job_ttl_s))


@app.function(
    image=generator_image,
    volumes={str(MODELS_MOUNT): models},
    env={"HF_XET_HIGH_PERFORMANCE": "1"},
    cpu=4.0,
    memory=16384,  # MiB: the text encoder is 11.4 GB in bfloat16
    max_containers=1,
    timeout=4 * 3600,
)
def setup(recipe: str = settings.recipe, decoder: str = settings.decoder, newest: bool = False) -> str:
    """Fetch a recipe's weights into the Volume and prepare them for this deployment. Safe to interrupt and repeat.

    With *newest* a recipe that names no commit moves to the newest one, once that is prepared; containers that run
    follow before their next job.
    """
    from anime_studio.checkpoints import store
    from anime_studio.checkpoints.decoders import fetch_decoder
    from anime_studio.checkpoints.published_upscaler import published_for
    from anime_studio.core.decoders import PUBLISHED, Decoder
    from anime_studio.engine.loading.prepare import packing_of, prepare

    wanted = get_recipe(recipe)
    checkpoint = store.fetch(wanted, MODELS_MOUNT, newest=newest, keep_in_use=newest)
    models.commit()  # a container that starts from here on finds them
    print(f"{recipe}: revision {checkpoint.revision} is complete")  # noqa: T201  `modal run` shows it
    if Decoder(decoder) is not Decoder.FULL:
        require_decoder(wanted, Decoder(decoder))
        folder = fetch_decoder(PUBLISHED[Decoder(decoder)], MODELS_MOUNT)
        models.commit()
        print(f"decoder {decoder} is complete in {folder.name}")  # noqa: T201
    packing = packing_of("cuda" if settings.uses_gpu else "cpu")
    folder = prepare(checkpoint, packing, published=published_for(wanted))
    models.commit()
    print(f"{recipe}: prepared for fast loading in {folder.name}")  # noqa: T201
    if newest:
        store.use(wanted, MODELS_MOUNT, checkpoint.revision)
        models.commit()
    return checkpoint.revision


@app.function(image=server_image, volumes={str(MODELS_MOUNT): models}, max_containers=1, timeout=1800)
def use(revision: str, recipe: str = settings.recipe) -> str:
    """Let containers load *revision*, which `setup` fetched before: running ones before their next job.

    Every byte of it is compared with its manifest first.
    """
    from anime_studio.checkpoints import store

    store.use(get_recipe(recipe), MODELS_MOUNT, revision)
    models.commit()
    print(f"{recipe}: revision {revision} is in use; starts are slower until the next deploy")  # noqa: T201
    return revision


@app.local_entrypoint()
async def main(
    prompt: str, out: str = "clip.mp4", duration: float = 5.0, resolution: str = "480p", seed: int = -1
) -> None:
    """Generate one clip through the real queue and containers, show its progress, and save it."""
    from anime_studio.on_modal.manual_run import generate_and_save

    asked = {
        "prompt": prompt,
        "duration": duration,
        "resolution": resolution,
        "seed": None if seed < 0 else seed,
    }
    await generate_and_save(
        asked, Path(out), settings=settings, dicts=dicts, outputs=outputs, render=Generator().render
    )
