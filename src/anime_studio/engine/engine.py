"""The engine: one loaded checkpoint that generates clips under its recipe.

A clip goes through text -> denoise -> decode -> upscale -> write. Frames go on to the upscaler, where the checkpoint
has one, and to the video encoder as they leave the VAE. The engine
reports each step, and a report that raises stops it. The engine knows nothing of jobs, stores or HTTP.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from anime_studio.core.errors import BadFramesError, CheckpointError
from anime_studio.core.jobs import RenderedClip
from anime_studio.core.notes import paths_refused, prompt_cut
from anime_studio.core.ports import Report
from anime_studio.core.recipes import Recipe
from anime_studio.engine.acceleration import PLAIN, Acceleration
from anime_studio.engine.decoder.choice import decoder_for
from anime_studio.engine.decoder.host_frames import HostFrames, frames_on_host
from anime_studio.engine.denoiser.model import denoiser_for
from anime_studio.engine.embeddings_cache import EmbeddingsCache
from anime_studio.engine.fallback import Part, paths_of
from anime_studio.engine.fitting import fitted
from anime_studio.engine.loading.components import Components, latent_shape
from anime_studio.engine.memory.sleep import WeightOffload
from anime_studio.engine.sampling import guided, sample, seeded_noise
from anime_studio.engine.text import EncodedText, PromptEncoder, TextSource, Waiting
from anime_studio.engine.torch_errors import torch_errors
from anime_studio.engine.upscaling import BATCH, CPU_BATCH, UpscalingStage
from anime_studio.engine.video import VideoWriter
from common.schemas import ClipSpec, Note, Stage

FLAT_STD = 1.5
"""A frame whose pixels have a smaller standard deviation (of 255) shows nothing: black, grey or one colour."""


class Engine:
    """Generates clips, one at a time. Satisfies `core.ports.Renderer`.

    Args:
        components: The loaded checkpoint; the engine takes it over.
        recipe: How to sample it.
        revision: Names the text encoder's weights in the cache of embeddings (`text.encoder_revision`).
        cache: Where embeddings are stored; None for memory only.
        acceleration: Which fast paths to take.
        refused: Names of the fast paths that this device refused; each clip's notes say so.
        text: Where the text comes from; None for the checkpoint's own encoder, which *components* then holds.
    """

    def __init__(
        self,
        components: Components,
        recipe: Recipe,
        *,
        revision: str,
        cache: EmbeddingsCache | None = None,
        acceleration: Acceleration = PLAIN,
        refused: tuple[str, ...] = (),
        text: TextSource | None = None,
    ) -> None:
        self.recipe = recipe
        self.components = components
        self.text: TextSource = text or PromptEncoder(
            components.tokenizer,
            components.text_encoder,
            max_sequence_length=recipe.max_sequence_length,
            revision=revision,
            cache=cache,
        )
        self.acceleration = acceleration
        self.refused = refused
        with paths_of(Part.DENOISER):
            self.denoiser = denoiser_for(components.transformer, acceleration, recipe.sparse)
        with paths_of(Part.DECODER):
            self.decoder = decoder_for(components.vae, acceleration)
        with paths_of(Part.UPSCALER):
            self.upscaling = (
                None
                if components.upscaler is None
                else UpscalingStage(
                    components.upscaler,
                    acceleration,
                    batch=CPU_BATCH if components.device.type == "cpu" else BATCH,
                )
            )
        self._weights = WeightOffload(list(components.models.values()), components.device)

    def render(self, spec: ClipSpec, folder: Path, report: Report) -> RenderedClip:
        """Generate *spec* into `clip.mp4` and `poster.jpg` in *folder*.

        Raises:
            JobStoppedError: Raised by *report* and passed through; no file is left.
            BadFramesError: The frames are NaN or show nothing; no file is left.
            CheckpointError: The clip needs an upscaler, and the checkpoint has none.
            OutOfMemoryError, DiskFullError, EngineError: See their docstrings.
        """
        self._require_upscaler(spec)
        video, poster = folder / "clip.mp4", folder / "poster.jpg"
        self.wake_up()
        with torch_errors():
            begun = time.perf_counter()
            report(Stage.TEXT)
            text = self.encode(spec, partial(report, Stage.TEXT))
            embedded = time.perf_counter()
            latents = self.denoise(spec, text.prompt, text.negative, report)
            denoised = time.perf_counter()
            self._write(spec, latents, video, poster, report)
            decoded = time.perf_counter()
            upscale_s = self.upscaling.seconds if self.upscaling and _asks_for_more(spec) else None
        return RenderedClip(
            video=video,
            poster=poster,
            width=spec.width,
            height=spec.height,
            num_frames=spec.num_frames,
            fps=spec.fps,
            text_s=embedded - begun,
            denoise_s=denoised - embedded,
            decode_s=decoded - denoised - (upscale_s or 0.0),
            upscale_s=upscale_s,
            notes=self._notes(text),
            paths=self.paths,
        )

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths that are on, as a record names them: those of the options and those of the recipe."""
        return (*self.acceleration.names, *self.recipe.paths)

    def _require_upscaler(self, spec: ClipSpec) -> None:
        if self.upscaling is None and spec.resolution.native is not spec.resolution:
            raise CheckpointError(
                f"{spec.resolution} needs an upscaler, and {self.components.folder} has none; ask for "
                f"{spec.resolution.native}, or prepare the checkpoint again with one"
            )

    def _notes(self, text: EncodedText) -> tuple[Note, ...]:
        notes = [prompt_cut(text.num_tokens, self.recipe.max_sequence_length)]
        notes.append(paths_refused(self.refused))
        return tuple(note for note in notes if note is not None)

    def encode(self, spec: ClipSpec, waiting: Waiting = lambda: None) -> EncodedText:
        """Return the text of *spec* on the engine's device; see `TextSource.text_of`."""
        text, device = self.text.text_of(spec, waiting), self.components.device
        negative = None if text.negative is None else text.negative.to(device)
        return EncodedText(text.prompt.to(device), negative, text.num_tokens)

    def encode_ahead(self, spec: ClipSpec) -> None:
        """Encode the text of a later clip into the cache, if the encoder is on the CPU: a GPU is busy with its clip.

        Another thread may render meanwhile.
        """
        if isinstance(self.text, PromptEncoder) and self.text.device.type == "cpu":
            self.text.text_of(spec)

    def embed(self, spec: ClipSpec) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the embeddings of prompt and, with guidance, negative prompt: (1, tokens, text_dim) each."""
        text = self.encode(spec)
        return text.prompt, text.negative

    @torch.inference_mode()
    def denoise(
        self, spec: ClipSpec, embeddings: torch.Tensor, negative: torch.Tensor | None, report: Report
    ) -> torch.Tensor:
        """Return the clip's latents: float32 (1, z, latent frames, height / 8, width / 8).

        Raises:
            BadFramesError: The denoiser gave NaN or infinity.
        """
        num_steps = spec.num_inference_steps
        shape = latent_shape(self.components, spec.num_frames, spec.native_height, spec.native_width)
        noise, generator = seeded_noise(shape, spec.seed)
        velocity = guided(self.denoiser, embeddings, negative, spec.guidance_scale)
        report(Stage.DENOISE, 0, num_steps)
        latents = noise.to(self.components.device)
        steps = sample(self.recipe, num_steps, self.components.scheduler_config, latents, velocity, generator)
        for step, denoised in enumerate(steps, start=1):
            latents = denoised
            report(Stage.DENOISE, step, num_steps)
        if not torch.isfinite(latents).all():
            raise BadFramesError(f"the denoiser gave NaN or infinity for seed {spec.seed}; try another seed")
        return latents

    @torch.inference_mode()
    def frames(self, latents: torch.Tensor, *, larger: bool = True) -> Iterator[HostFrames]:
        """Yield groups of frames as the VAE decodes them: uint8 (n, height, width, 3), RGB.

        Height and width are those of the model, times the upscaler's scale where there is one and *larger* asks for it.

        Raises:
            BadFramesError: Frames hold NaN or infinity.
        """
        yield from frames_on_host(self.decoded(latents, larger=larger))

    @torch.inference_mode()
    def clip_frames(self, spec: ClipSpec, latents: torch.Tensor) -> Iterator[HostFrames]:
        """Yield the frames of *spec* as `frames` does, with the shape of the clip and no more pixels than it has.

        Raises:
            BadFramesError: Frames hold NaN or infinity.
        """
        yield from frames_on_host(fitted(self.decoded(latents, larger=_asks_for_more(spec)), spec))

    def decoded(self, latents: torch.Tensor, *, larger: bool = True) -> Iterator[torch.Tensor]:
        """Return the groups of `frames` as they are on the device: (n, 3, height, width) in about [-1, 1]."""
        groups = self.decoder.decode(latents)
        return self.upscaling.frames(groups) if self.upscaling and larger else groups

    def sleep(self) -> None:
        """Offload the weights to host memory and free the GPU's, for a memory snapshot. On a CPU, do nothing.

        Raises:
            OutOfMemoryError, EngineError: Host memory has too little room; the weights stay on the GPU.
        """
        if self.components.device.type == "cuda":
            with torch_errors():
                self._weights.offload()

    def wake_up(self) -> None:
        """Copy the weights back to the GPU if they are offloaded.

        Raises:
            OutOfMemoryError, EngineError: The GPU fails; this engine can generate nothing more.
        """
        with torch_errors():
            self._weights.fetch()

    def _write(
        self, spec: ClipSpec, latents: torch.Tensor, video: Path, poster: Path, report: Report
    ) -> None:
        writer = VideoWriter(
            video,
            poster,
            size=(spec.width, spec.height),
            fps=spec.fps,
            num_frames=spec.num_frames,
            metadata=f"anime-studio recipe={spec.recipe} revision={spec.model_revision} decoder={spec.decoder} "
            f"seed={spec.seed}",
        )
        written, shows_something = 0, False
        report(Stage.DECODE, 0, spec.num_frames)
        with writer:
            for group in self.clip_frames(spec, latents):
                writer.write(group)
                shows_something = shows_something or _shows_something(group)
                written += len(group)
                report(Stage.DECODE, written, spec.num_frames)
            if not shows_something:
                raise BadFramesError(f"every frame is of one colour for seed {spec.seed}; try another seed")


def is_larger(size: tuple[int, int], native_size: tuple[int, int]) -> bool:
    """Return whether a clip is larger than what the model draws; if not, an upscaler's pixels would be thrown away.

    Args:
        size: (width, height) of the clip, in pixels.
        native_size: The same of what the model draws.
    """
    return size[0] > native_size[0] or size[1] > native_size[1]


def _asks_for_more(spec: ClipSpec) -> bool:
    return is_larger((spec.width, spec.height), (spec.native_width, spec.native_height))


def _shows_something(group: HostFrames) -> bool:
    return any(float(frame.std(axis=(0, 1)).max()) >= FLAT_STD for frame in group)
