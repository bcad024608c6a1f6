"""The engine: one loaded checkpoint that draws clips under its recipe.

text -> denoise -> decode, frames going to the encoder as they leave the VAE. It reports each real
step; the report raises to stop it. It knows nothing of jobs, stores or HTTP.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from anime_studio.core.errors import AnimeStudioError, BadFramesError, EngineError, OutOfMemoryError
from anime_studio.core.jobs import RenderedClip, Report
from anime_studio.core.recipes import Recipe
from anime_studio.engine.acceleration import PLAIN, Acceleration
from anime_studio.engine.choosing import load_whole
from anime_studio.engine.decoding import StreamingDecoder
from anime_studio.engine.denoiser import denoiser_for
from anime_studio.engine.loading import Components, latent_shape
from anime_studio.engine.sampling import guided, sampler_for, seeded_noise
from anime_studio.engine.stowage import Stowage
from anime_studio.engine.text import PromptEncoder, encoder_revision
from anime_studio.engine.video import VideoWriter
from anime_studio.prepared import Forms
from common.schemas import ClipSpec, Stage, StartKind

FLAT_STD = 1.5
"""A frame whose pixels spread less than this (of 255) shows nothing: black, grey or one colour."""


class Engine:
    """Draws clips; one at a time. Satisfies `core.jobs.Renderer`."""

    def __init__(
        self,
        components: Components,
        recipe: Recipe,
        *,
        revision: str,
        cache_dir: Path | None = None,
        acceleration: Acceleration = PLAIN,
    ) -> None:
        self.start_kind = StartKind.COLD
        self.recipe = recipe
        self.components = components
        self.text = PromptEncoder(
            components.tokenizer,
            components.text_encoder,
            max_sequence_length=recipe.max_sequence_length,
            revision=f"{revision}/{acceleration.text_weights}",
            cache_dir=cache_dir,
        )
        self.denoiser = denoiser_for(components.transformer, acceleration)
        self.decoder = StreamingDecoder(components.vae, acceleration)
        self._stowage: Stowage | None = None

    def render(self, spec: ClipSpec, folder: Path, report: Report) -> RenderedClip:
        """Draw *spec* into `clip.mp4` and `poster.jpg` in *folder*.

        Raises:
            JobStoppedError: Raised by *report* and passed through; no file is left.
            BadFramesError: The frames are NaN or show nothing; no file is left.
            OutOfMemoryError, DiskFullError, EngineError: See their docstrings.
        """
        video, poster = folder / "clip.mp4", folder / "poster.jpg"
        self.wake()
        with _engine_errors():
            begun = time.perf_counter()
            report(Stage.TEXT)
            embeddings, negative = self.embed(spec)
            embedded = time.perf_counter()
            latents = self.denoise(spec, embeddings, negative, report)
            denoised = time.perf_counter()
            self._write(spec, latents, video, poster, report)
            decoded = time.perf_counter()
        return RenderedClip(
            video=video,
            poster=poster,
            width=spec.width,
            height=spec.height,
            num_frames=spec.num_frames,
            fps=spec.fps,
            text_s=embedded - begun,
            denoise_s=denoised - embedded,
            decode_s=decoded - denoised,
        )

    def embed(self, spec: ClipSpec) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the embeddings of prompt and, with guidance, negative prompt: (1, tokens, text_dim) each."""
        embeddings = self.text.encode(spec.prompt_used)
        if spec.guidance_scale is None:
            return embeddings, None
        return embeddings, self.text.encode(spec.negative_prompt or "")

    @torch.inference_mode()
    def denoise(
        self, spec: ClipSpec, embeddings: torch.Tensor, negative: torch.Tensor | None, report: Report
    ) -> torch.Tensor:
        """Return the clip's latents: float32 (1, z, latent frames, height / 8, width / 8).

        Raises:
            BadFramesError: The denoiser gave NaN or infinity.
        """
        shape = latent_shape(self.components, spec.num_frames, spec.native_height, spec.native_width)
        noise, generator = seeded_noise(shape, spec.seed)
        velocity = guided(self.denoiser, embeddings, negative, spec.guidance_scale)
        steps = sampler_for(self.recipe, spec.num_inference_steps, self.components.scheduler_config)
        report(Stage.DENOISE, 0, spec.num_inference_steps)
        latents = noise.to(self.components.device)
        for done, latents in enumerate(steps(latents, velocity, generator), start=1):  # noqa: B007, B020
            report(Stage.DENOISE, done, spec.num_inference_steps)
        if not _is_finite(latents):
            raise BadFramesError(f"the denoiser gave NaN or infinity for seed {spec.seed}; try another seed")
        return latents

    @torch.inference_mode()
    def frames(self, latents: torch.Tensor) -> Iterator[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
        """Yield groups of frames as the VAE draws them: uint8 (n, height, width, 3), RGB.

        Raises:
            BadFramesError: Frames hold NaN or infinity.
        """
        # On a GPU a group is on its way to main memory while the next is drawn.
        behind = 1 if latents.is_cuda else 0
        waiting: deque[_Levels] = deque()
        for group in self.decoder.decode(latents):
            waiting.append(_Levels(group))
            if len(waiting) > behind:
                yield waiting.popleft().fetch()
        for levels in waiting:
            yield levels.fetch()

    def warm_up(self) -> None:
        """Draw throw-away passes at each size, so that no clip pays for first use.

        On a GPU kernels are made for shapes. The full length comes first and gets its own; a second length makes
        `torch.compile` write kernels for all lengths; a third, one latent frame longer, leaves the decoder the
        single frame at the end that every other length has. On a CPU the shortest clip will do.

        Raises:
            BadFramesError: A pass gave NaN or infinity: a fast path that does not work here, or a broken checkpoint.
            OutOfMemoryError, EngineError: See their docstrings.
        """
        shortest, longest = self.recipe.min_frames, self.recipe.max_frames
        lengths = [shortest]
        if self.components.device.type == "cuda":
            one_more = min(shortest + self.components.vae.config.scale_factor_temporal, longest)
            lengths = list(dict.fromkeys((longest, shortest, one_more)))
        velocity = guided(self.denoiser, self.text.encode("warm up"), None, None)
        for width, height in self.recipe.native_sizes.values():
            for num_frames in lengths:
                noise, _ = seeded_noise(latent_shape(self.components, num_frames, height, width), 0)
                latents = noise.to(self.components.device)
                with torch.inference_mode(), _engine_errors():
                    sound = _is_finite(velocity(latents, torch.tensor(500, device=latents.device)))
                    for group in self.decoder.decode(latents):
                        sound &= _is_finite(group)
                if not sound:
                    raise BadFramesError(
                        f"warming up at {width}x{height}, {num_frames} frames gave NaN or infinity; the checkpoint or a "
                        "fast path is at fault"
                    )

    def rest(self) -> None:
        """Have the weights wait in main memory and the GPU hold next to nothing, while a memory snapshot is taken.

        Raises:
            OutOfMemoryError, EngineError: There is no room for them; they are where they were.
        """
        parts = self.components
        if parts.device.type != "cuda":
            return
        with _engine_errors():
            if self._stowage is None:
                self._stowage = Stowage((parts.text_encoder, parts.transformer, parts.vae), parts.device)
            self._stowage.stow()
            torch.cuda.empty_cache()

    def wake(self) -> None:
        """Bring back what `rest` moved, if it did.

        Raises:
            OutOfMemoryError, EngineError: The GPU fails; this engine can draw nothing more.
        """
        if self._stowage is not None:
            with _engine_errors():
                self._stowage.fetch()

    def _write(
        self, spec: ClipSpec, latents: torch.Tensor, video: Path, poster: Path, report: Report
    ) -> None:
        writer = VideoWriter(
            video,
            poster,
            size=(spec.width, spec.height),
            fps=spec.fps,
            num_frames=spec.num_frames,
            metadata=f"anime-studio recipe={spec.recipe} revision={spec.model_revision} seed={spec.seed}",
        )
        drawn, shows_something = 0, False
        report(Stage.DECODE, 0, spec.num_frames)
        with writer:
            for group in self.frames(latents):
                writer.write(group)
                shows_something = shows_something or _shows_something(group)
                drawn += len(group)
                report(Stage.DECODE, drawn, spec.num_frames)
            if not shows_something:
                raise BadFramesError(f"every frame is of one colour for seed {spec.seed}; try another seed")


class _Levels:
    """A group of frames as 8-bit levels, coming to main memory without making anyone wait."""

    def __init__(self, group: torch.Tensor) -> None:
        self._sound = _to_host(torch.isfinite(group).all())  # before infinity is clamped
        levels = group.float().add_(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
        self._levels = _to_host(levels.permute(0, 2, 3, 1).contiguous())
        self._here = torch.cuda.Event() if group.is_cuda else None  # type: ignore[no-untyped-call]
        if self._here is not None:
            self._here.record()

    def fetch(self) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        """Wait for the frames and return them."""
        if self._here is not None:
            self._here.synchronize()
        if not bool(self._sound):
            raise BadFramesError("the VAE gave NaN or infinity; the checkpoint or device is at fault")
        return self._levels.numpy()


def _to_host(values: torch.Tensor) -> torch.Tensor:
    if not values.is_cuda:
        return values
    pinned = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    return pinned.copy_(values, non_blocking=True)


def load_engine(
    recipe: Recipe,
    folder: Path,
    *,
    device: str = "auto",
    cache_dir: Path | None = None,
    acceleration: Acceleration = PLAIN,
    models_dir: Path | None = None,
) -> Engine:
    """Load the checkpoint in *folder* for *recipe*.

    Args:
        recipe: How it is sampled.
        folder: A checkpoint in diffusers' layout, or a prepared form of one.
        device: `cpu`, `cuda`, or `auto` for a GPU when there is one.
        cache_dir: Where prompt embeddings are kept between runs.
        acceleration: Which fast paths to take.
        models_dir: Where checkpoints are kept: a form of this one that was prepared for device and fast paths is
            loaded instead; a damaged one is not, and the log says so. None looks for none.

    Raises:
        CheckpointError: A file is wrong; the detail names it.
        OutOfMemoryError: It does not fit.
        EngineError: The device is not there.
    """
    place = device_named(device)
    forms = None if models_dir is None else Forms.of(recipe, folder, models_dir)
    with _engine_errors():
        return Engine(
            load_whole(folder, forms, place, acceleration),
            recipe,
            revision=encoder_revision(folder),
            cache_dir=cache_dir,
            acceleration=acceleration,
        )


def device_named(name: str) -> torch.device:
    """Return the device called *name*: `cpu`, `cuda`, or `auto` for a GPU when there is one.

    Raises:
        EngineError: It is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise EngineError("device is set to cuda, but torch sees no GPU; set ANIME_STUDIO_DEVICE=cpu or auto")
    return torch.device(name)


def _is_finite(values: torch.Tensor) -> bool:
    return bool(torch.isfinite(values).all())


def _shows_something(group: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bool:
    return any(float(frame.std(axis=(0, 1)).max()) >= FLAT_STD for frame in group)


@contextlib.contextmanager
def _engine_errors() -> Iterator[None]:
    try:
        yield
    except AnimeStudioError:
        raise
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise OutOfMemoryError(f"the GPU ran out of memory: {error}") from error
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "not enough memory" in str(error):
            raise OutOfMemoryError(f"this machine ran out of memory: {error}") from error
        raise EngineError(f"the model failed: {error}") from error
