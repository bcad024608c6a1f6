"""A checkpoint -> an engine that is warm: with the fast paths that suit the device, or without them."""

from __future__ import annotations

import gc
from dataclasses import replace

import structlog
import torch

from anime_studio.checkpoints.pipeline_files import SCHEDULER, text_encoder_bytes
from anime_studio.checkpoints.store import Checkpoint
from anime_studio.core.cpus import usable_cores
from anime_studio.core.errors import BadFramesError, CheckpointError, EngineError, OutOfMemoryError
from anime_studio.core.recipes import Recipe, Sampler
from anime_studio.engine.acceleration import (
    PLAIN,
    Acceleration,
    Attention,
    options_for_capability,
    packing_for,
)
from anime_studio.engine.card_memory import GIB, CardMemory, needed_bytes, too_little
from anime_studio.engine.denoiser.int8_attention import int8_attention_works
from anime_studio.engine.embeddings_cache import EmbeddingsCache
from anime_studio.engine.engine import Engine, is_larger
from anime_studio.engine.fallback import Fallback, Part, PathRefusedError, paths_of
from anime_studio.engine.loading.components import (
    Components,
    latent_shape,
    load_components,
    load_for_a_gpu,
    load_text_encoder,
    moved,
)
from anime_studio.engine.sampling import guided, seeded_noise
from anime_studio.engine.text import PromptEncoder, TextSource, encoder_revision
from anime_studio.engine.torch_errors import torch_errors
from anime_studio.engine.weights_check import check_embeddings, check_weights
from anime_studio.telemetry import LogEvent

_log = structlog.get_logger()


def start_engine(
    recipe: Recipe,
    checkpoint: Checkpoint,
    *,
    device: str = "auto",
    accelerate: bool = True,
    cache: EmbeddingsCache | None = None,
    text: TextSource | None = None,
    weights: Components | None = None,
    every_shape: bool = True,
) -> Engine:
    """Load *checkpoint*, and on a GPU warm it up, so that no clip pays for first use.

    A GPU that refuses a fast path (an older driver, a kernel that does not compile there) keeps the others
    (`engine.fallback`); the log, and each clip's notes, say which. Slower clips are better than none.

    Args:
        recipe: How the checkpoint is sampled.
        checkpoint: As located.
        device: `cpu`, `cuda`, or `auto` for a GPU when there is one.
        accelerate: Whether to take the fast paths that suit device and recipe.
        cache: Where prompt embeddings are stored; None for memory only.
        text: Where the text comes from; None to load the checkpoint's own encoder.
        weights: From `load_weights`, to be moved instead of loaded.
        every_shape: As in `warm_up`.

    Raises:
        CheckpointError: A file is wrong, or no clip can be drawn with what it holds; the detail names it.
        OutOfMemoryError: The checkpoint does not fit. Where its need was measured that is told before it is loaded.
        EngineError: The device is not there, or fails.
    """
    place = device_named(device)
    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
    options = options_for(recipe, place) if accelerate else PLAIN
    fallback = Fallback(options)
    while True:
        _leave_out_what_cannot_fit(fallback, recipe, checkpoint, place, with_text=text is None)
        try:
            return _warm(
                load_engine(
                    recipe,
                    checkpoint,
                    place,
                    cache=cache,
                    acceleration=fallback.options,
                    refused=fallback.refused,
                    text=text,
                    weights=weights,
                ),
                every_shape=every_shape,
            )
        except OutOfMemoryError as error:
            if not fallback.take_less_memory():
                raise
            detail = error.detail
        except PathRefusedError as error:
            if not fallback.drop_next(error.part):
                raise _without_paths(checkpoint, error) from error
            detail = str(error)
        weights = None  # the refused engine may have changed them
        _log.warning(LogEvent.ENGINE_ACCELERATION_REFUSED, detail=detail, without=list(fallback.refused))
        gc.collect()  # the refused engine's weights
        torch.cuda.empty_cache()


def card_memory(device: torch.device) -> CardMemory | None:
    """Return the memory of the card *device*; None for a CPU."""
    if device.type != "cuda":
        return None
    with torch_errors():
        return CardMemory(*torch.cuda.mem_get_info(device))


def _leave_out_what_cannot_fit(
    fallback: Fallback, recipe: Recipe, checkpoint: Checkpoint, device: torch.device, *, with_text: bool
) -> None:
    """Decode in smaller chunks where the options' measured need is more than the card's free memory.

    Raises:
        OutOfMemoryError: The smallest chunks need more too; nothing was loaded.
    """
    card = card_memory(device)
    if card is None or needed_bytes(recipe, checkpoint.decoder, fallback.options) is None:
        return
    text_bytes = text_encoder_bytes(checkpoint.folder, packing_for(device.type)) if with_text else 0
    while (needed := needed_bytes(recipe, checkpoint.decoder, fallback.options)) is not None:
        needed += text_bytes
        if needed <= card.free_bytes:
            return
        if not fallback.take_less_memory():
            raise OutOfMemoryError(too_little(recipe, card, needed, text_bytes))
        detail = (
            f"{needed / GIB:.1f} GiB are needed, and {card.free_bytes / GIB:.1f} are free; this was not tried"
        )
        _log.warning(LogEvent.ENGINE_ACCELERATION_REFUSED, detail=detail, without=list(fallback.refused))


def import_compiler() -> None:
    """Import what the first `torch.compile` would, which takes seconds. It looks for no GPU."""
    import torch._inductor.compile_fx  # noqa: F401


def _without_paths(checkpoint: Checkpoint, error: PathRefusedError) -> EngineError:
    if isinstance(
        error.__cause__, BadFramesError
    ):  # whole weights, plain arithmetic: the numbers are at fault
        return CheckpointError(
            f"{checkpoint.folder}: the {error.part} gives NaN or infinity without fast paths too; no clip can be drawn with "
            "these weights"
        )
    return EngineError(f"the {error.part} fails without fast paths too: {error}")


def load_weights(checkpoint: Checkpoint, *, for_gpu: bool, with_text: bool = False) -> Components | None:
    """Return the prepared weights in host memory, for `start_engine`; None if none are prepared.

    It looks for no GPU, so that torch finds the one that comes after a restore.

    Raises:
        OutOfMemoryError, EngineError: See their docstrings.
    """
    with torch_errors():
        return load_for_a_gpu(checkpoint, packing_for("cuda" if for_gpu else "cpu"), with_text=with_text)


def start_text_encoder(
    recipe: Recipe, checkpoint: Checkpoint, *, for_gpu: bool, cache: EmbeddingsCache | None = None
) -> PromptEncoder:
    """Load the text encoder of *checkpoint* alone, onto the CPU, in the dtype of the denoiser's device.

    Args:
        recipe: How the checkpoint is sampled.
        checkpoint: As located.
        for_gpu: Whether the denoiser computes on a GPU, in bfloat16.
        cache: Where prompt embeddings are stored; None for memory only.

    Raises:
        CheckpointError: A file is wrong; the detail names it.
        OutOfMemoryError, EngineError: See their docstrings.
    """
    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
    with torch_errors():
        loaded = load_text_encoder(checkpoint, packing_for("cuda" if for_gpu else "cpu"))
        encoder = PromptEncoder(
            loaded.tokenizer,
            loaded.model,
            max_sequence_length=recipe.max_sequence_length,
            revision=encoder_revision(checkpoint.folder),
            cache=cache,
        )
        check_weights(loaded.folder, "text_encoder", loaded.model)
        check_embeddings(loaded.folder, encoder)
    return encoder


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


def options_for(recipe: Recipe, device: torch.device) -> Acceleration:
    """Return the fast paths that suit *device*, with 8-bit attention if *recipe* was trained with it or is sparse.

    No sparse recipe was trained in 8 bits. But the 8-bit kernel is the only sparse one that is fast, and on Hopper it errs
    as little as bfloat16 (docs/performance.md).
    """
    if device.type != "cuda":
        return PLAIN
    options = options_for_capability(torch.cuda.get_device_capability(device))
    in_8_bits = recipe.trained_with_8bit_attention or recipe.sparse is not None
    if in_8_bits and options.fused_denoiser and int8_attention_works(device):
        return replace(options, attention=Attention.INT8)
    return options


def load_engine(
    recipe: Recipe,
    checkpoint: Checkpoint,
    device: torch.device,
    *,
    acceleration: Acceleration = PLAIN,
    cache: EmbeddingsCache | None = None,
    refused: tuple[str, ...] = (),
    text: TextSource | None = None,
    weights: Components | None = None,
) -> Engine:
    """Load *checkpoint* onto *device* with exactly these fast paths, not warmed up; see `start_engine`."""
    with torch_errors():
        if weights is not None:
            components = moved(weights, checkpoint, device)
        else:
            components = load_components(checkpoint, device, with_text=text is None)
        if recipe.sampler is Sampler.UNIPC and not components.scheduler_config:
            raise CheckpointError(
                f"{components.folder / SCHEDULER} is missing; recipe {recipe.name} samples by it"
            )
        return Engine(
            components,
            recipe,
            revision=encoder_revision(checkpoint.folder),
            cache=cache,
            acceleration=acceleration,
            refused=refused,
            text=text,
        )


def _warm(engine: Engine, *, every_shape: bool) -> Engine:
    check_parts(engine)
    warm_up(engine, every_shape=every_shape)
    return engine


def check_parts(engine: Engine) -> None:
    """Refuse a checkpoint that cannot draw: told at the start, once, and not by each job.

    Its weights are numbers that a training can give, and a known prompt's embedding differs from token to token. That a
    forward and a decode are finite, `warm_up` sees.

    Raises:
        CheckpointError: The detail names the part, and the weight where one is at fault.
    """
    folder = engine.components.folder
    for name, model in engine.components.models.items():
        check_weights(folder, name, model)
    if engine.components.text_encoder is not None and isinstance(engine.text, PromptEncoder):
        with torch_errors():
            check_embeddings(folder, engine.text)


def warm_up(engine: Engine, *, every_shape: bool = True) -> None:
    """Run one denoise step and one decode at each size and some lengths; the results are thrown away.

    On a GPU kernels are compiled for shapes. The longest clip comes first, and its kernels are made for its length alone.
    A second length makes `torch.compile` write kernels for every length. A third, one latent frame longer than the
    shortest, leaves the decoder a single frame at the end, as every other length does. On a CPU nothing is compiled:
    one frame shows whether the parts work. An upscaler, where clips are larger than what the model draws, first gets frames
    that no decoder made, so that a failure after that is the decoder's.

    Args:
        engine: Awake.
        every_shape: False where kernels of an earlier start are kept: the longest clip of the first size alone. A clip
            of another shape then finds its kernels, and waits once for their graph to be traced.

    Raises:
        PathRefusedError: A part failed, or gave NaN or infinity: a fast path does not work here.
        OutOfMemoryError: See its docstring.
    """
    recipe, components = engine.recipe, engine.components
    lengths = [1]
    if components.device.type == "cuda":
        one_more = min(recipe.min_frames + components.vae.config.scale_factor_temporal, recipe.max_frames)
        lengths = list(dict.fromkeys((recipe.max_frames, recipe.min_frames, one_more)))
    # Any numbers of this shape do: a text changes no kernel.
    shape = (1, recipe.max_sequence_length, components.transformer.config.text_dim)
    dtype = getattr(torch, packing_for(components.device.type).dtype)
    embeddings = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    embeddings = embeddings.to(components.device, dtype)
    sizes = _native_sizes(recipe)
    if not every_shape:
        sizes, lengths = dict(list(sizes.items())[:1]), lengths[:1]
    for (width, height), larger in sizes.items():
        if engine.upscaling is not None and larger:
            with paths_of(Part.UPSCALER), torch_errors(), torch.inference_mode():
                frame = torch.rand(1, 3, height, width, device=components.device)
                for large in engine.upscaling.frames([frame]):
                    _require_finite(large, f"{width}x{height}, the upscaler")
        for num_frames in lengths:
            noise, _ = seeded_noise(latent_shape(components, num_frames, height, width), 0)
            latents, where = noise.to(components.device), f"{width}x{height}, {num_frames} frames"
            with paths_of(Part.DENOISER), torch_errors(), torch.inference_mode():
                velocity = guided(engine.denoiser, embeddings, None, None)
                _require_finite(velocity(latents, torch.tensor(500, device=latents.device)), where)
            with paths_of(Part.DECODER), torch_errors(), torch.inference_mode():
                for group in engine.decoded(latents, larger=larger):
                    _require_finite(group, where)


def _native_sizes(recipe: Recipe) -> dict[tuple[int, int], bool]:
    """Return each size that the model draws, and whether any clip of it is to be larger."""
    sizes: dict[tuple[int, int], bool] = {}
    for resolution, native_size in recipe.native_sizes.items():
        sizes[native_size] = sizes.get(native_size, False) or is_larger(resolution.size, native_size)
    return sizes


def _require_finite(values: torch.Tensor, where: str) -> None:
    if not torch.isfinite(values).all():
        raise BadFramesError(
            f"warming up at {where} gave NaN or infinity; the checkpoint or a fast path is at fault"
        )
