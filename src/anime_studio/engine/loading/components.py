"""A checkpoint's files -> a pipeline's components on a device."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import structlog
import torch
from diffusers.utils import logging as diffusers_logging
from transformers import AutoTokenizer
from transformers.utils import logging as transformers_logging

from anime_studio.checkpoints.manifest import Packing, fixed_by
from anime_studio.checkpoints.pipeline_files import SCHEDULER, UPSCALER, read_json
from anime_studio.checkpoints.prepared import find_prepared, prepare_again, refuse_others
from anime_studio.checkpoints.store import Checkpoint
from anime_studio.core.errors import CheckpointError, OutOfMemoryError
from anime_studio.engine.acceleration import packing_for
from anime_studio.engine.loading.architecture import (
    MODELS,
    check_source,
    library_errors,
    model_class,
    without_encoder,
)
from anime_studio.engine.loading.from_shards import read_prepared
from anime_studio.engine.loading.smaller_decoders import load_smaller_decoder
from anime_studio.engine.upscaling import Upscaler, load_upscaler
from anime_studio.telemetry import LogEvent

_log = structlog.get_logger(__name__)


class ReadModels(Protocol):
    """Reads some of `text_encoder`, `transformer` and `vae` from a folder onto a device."""

    def __call__(
        self, folder: Path, packing: Packing, device: torch.device, parts: Collection[str], *, gated: bool
    ) -> dict[str, Any]:
        """See `read_source`."""
        ...


_TEXT: Final = ("text_encoder",)
_WITHOUT_TEXT: Final = ("transformer", "vae")
_Loaded = TypeVar("_Loaded")


@dataclass(frozen=True)
class Components:
    """The loaded parts of a Wan pipeline, on one device.

    Attributes:
        folder: Where they were read from: a checkpoint as fetched, or one prepared from it.
        tokenizer: A transformers tokenizer; None where the text is encoded elsewhere.
        text_encoder: UMT5 encoder; None as well.
        transformer: The denoiser.
        vae: The autoencoder's decoder, or the smaller one that stands in for it, with the autoencoder's `config`.
        scheduler_config: The checkpoint's own scheduler settings; empty if it has none, which only UniPC minds.
        device: Where the models compute.
        upscaler: What makes the decoder's frames larger; None where the checkpoint has none.
    """

    folder: Path
    tokenizer: Any
    text_encoder: Any
    transformer: Any
    vae: Any
    scheduler_config: Mapping[str, Any]
    device: torch.device
    upscaler: Upscaler | None = None

    @property
    def models(self) -> dict[str, Any]:
        """The models that are here, by the name of their folder."""
        found = {name: getattr(self, name) for name in (*MODELS, UPSCALER)}
        return {name: model for name, model in found.items() if model is not None}


@dataclass(frozen=True)
class LoadedText:
    """A text encoder alone: where it was read from, its tokenizer and its model, on the CPU."""

    folder: Path
    tokenizer: Any
    model: Any


def load_components(checkpoint: Checkpoint, device: torch.device, *, with_text: bool = True) -> Components:
    """Load *checkpoint* onto *device*: as prepared for *device* if it was, else from the source.

    The decoder is the one that *checkpoint* names. Without *with_text* nothing of the text encoder is read.

    A prepared checkpoint that cannot be used is not an error. One line in the log says why and which command fixes it.

    Raises:
        CheckpointError: A file of the source is missing, unreadable, truncated, of another architecture, or holds
            missing, unexpected or misshapen weights; the detail names the file.
        OutOfMemoryError: The device has too little memory.
    """
    packing = packing_for(device.type)

    def load(folder: Path, read_models: ReadModels) -> Components:
        return _load(folder, packing, device, read_models, with_text=with_text, gated=checkpoint.gated)

    components = _load_prepared(checkpoint, packing, load) or load(checkpoint.folder, read_source)
    return _completed(components, checkpoint)


def _completed(components: Components, checkpoint: Checkpoint) -> Components:
    """Add what is never prepared: the decoder that *checkpoint* names."""
    if checkpoint.decoder_file is None:
        return components
    config, device = components.vae.config, components.device
    return replace(
        components, vae=load_smaller_decoder(checkpoint.decoder, checkpoint.decoder_file, config, device)
    )


def load_for_a_gpu(checkpoint: Checkpoint, packing: Packing, *, with_text: bool) -> Components | None:
    """Load *checkpoint* into host memory, without looking for a GPU; None if nothing is prepared as *packing*.

    Raises:
        CheckpointError, OutOfMemoryError: See `load_components`.
    """

    def load(folder: Path, read_models: ReadModels) -> Components:
        cpu = torch.device("cpu")
        return _load(folder, packing, cpu, read_models, with_text=with_text, gated=checkpoint.gated)

    return _load_prepared(checkpoint, packing, load)


def moved(components: Components, checkpoint: Checkpoint, device: torch.device) -> Components:
    """Move what `load_for_a_gpu` returned to *device*, and give it what `load_components` adds."""
    for model in components.models.values():
        model.to(device)
    return _completed(replace(components, device=device), checkpoint)


def load_text_encoder(checkpoint: Checkpoint, packing: Packing) -> LoadedText:
    """Load the text encoder of *checkpoint* alone, onto the CPU: as prepared for *packing* if it was, else the source.

    Raises:
        CheckpointError, OutOfMemoryError: See `load_components`.
    """

    def load(folder: Path, read_models: ReadModels) -> LoadedText:
        cpu = torch.device("cpu")
        model = read_models(folder, packing, cpu, _TEXT, gated=checkpoint.gated)["text_encoder"]
        return LoadedText(folder, _load_tokenizer(folder / "tokenizer"), model)

    return _load_prepared(checkpoint, packing, load) or load(checkpoint.folder, read_source)


def _load_prepared(
    checkpoint: Checkpoint, packing: Packing, load: Callable[[Path, ReadModels], _Loaded]
) -> _Loaded | None:
    try:
        with fixed_by(prepare_again(checkpoint)):
            folder = find_prepared(checkpoint, packing)
            if folder is not None:
                return load(folder, read_prepared)
            refuse_others(checkpoint, packing)
            return None
    except CheckpointError as error:
        _log.warning(LogEvent.ENGINE_PREPARED_REFUSED, detail=error.detail, loading=str(checkpoint.folder))
    gc.collect()  # what was loaded before the refusal
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
    return None


def _load(
    folder: Path,
    packing: Packing,
    device: torch.device,
    read_models: ReadModels,
    *,
    with_text: bool,
    gated: bool,
) -> Components:
    try:
        with ThreadPoolExecutor(
            1
        ) as thread:  # a vocabulary of 256,384 takes a second, as long as the weights
            tokenizer = thread.submit(_load_tokenizer, folder / "tokenizer") if with_text else None
            parts = tuple(MODELS) if with_text else _WITHOUT_TEXT
            models = read_models(folder, packing, device, parts, gated=gated)
            return Components(
                folder=folder,
                tokenizer=tokenizer and tokenizer.result(),
                text_encoder=models.get("text_encoder"),
                transformer=models["transformer"],
                vae=models["vae"],
                scheduler_config=read_json(folder / SCHEDULER) if (folder / SCHEDULER).exists() else {},
                device=device,
                upscaler=load_upscaler(folder, packing, device),
            )
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryError(f"{device} has no room for the checkpoint {folder}: {error}") from error


def read_source(
    folder: Path,
    packing: Packing,
    device: torch.device,
    parts: Collection[str] = tuple(MODELS),
    *,
    gated: bool = False,
) -> dict[str, Any]:
    """Read models of a checkpoint as fetched.

    Args:
        folder: The checkpoint.
        packing: What *device* asks for.
        device: Where the weights go.
        parts: The names of the models that are wanted.
        gated: See `Checkpoint.gated`.

    Raises:
        CheckpointError: See `load_components`.
    """
    check_source(folder, gated=gated)
    dtype = getattr(torch, packing.dtype)
    return {name: load_model(folder / name, dtype, gated=gated).to(device) for name in parts}


def load_model(folder: Path, dtype: torch.dtype, *, gated: bool = False) -> Any:
    """Return the model in *folder*, part of a checkpoint as fetched, on the CPU with its weights in *dtype*.

    *gated* as `Checkpoint.gated`.

    Raises:
        CheckpointError: It cannot be read.
    """
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    with library_errors(folder):
        model = model_class(folder.name, gated=gated).from_pretrained(
            folder, local_files_only=True, torch_dtype=dtype, low_cpu_mem_usage=True
        )
    if folder.name == "text_encoder":
        _check_tables(folder, model)
    if folder.name == "vae":
        without_encoder(model)
    return model.eval()


def _check_tables(folder: Path, text_encoder: Any) -> None:
    """Refuse an encoder whose two names of the embedding table hold different numbers.

    transformers 5.0 to 5.2 fill the name that the file lacks with random numbers, in silence.
    """
    shared, used = text_encoder.shared.weight, text_encoder.encoder.embed_tokens.weight
    if shared.data_ptr() != used.data_ptr() and not torch.equal(shared, used):
        raise CheckpointError(
            f"{folder}: shared.weight and encoder.embed_tokens.weight differ after loading; they are one table. "
            "Install transformers 5.3 or later, or fetch the weights again"
        )


def _load_tokenizer(folder: Path) -> Any:
    with library_errors(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if tokenizer.pad_token is None:
            raise CheckpointError(f"{folder / 'tokenizer_config.json'} is missing or names no pad_token")
        return tokenizer


def latent_shape(components: Components, num_frames: int, height: int, width: int) -> tuple[int, ...]:
    """Return (1, channels, latent frames, latent height, latent width) of a clip.

    Raises:
        CheckpointError: *height* or *width* (pixels) is not a multiple of what the VAE and the denoiser fold into one.
    """
    config = components.vae.config
    spatial = config.scale_factor_spatial
    _, patch_h, patch_w = components.transformer.config.patch_size
    if height % (spatial * patch_h) or width % (spatial * patch_w):
        raise CheckpointError(
            f"{width}x{height} is not a multiple of {spatial * patch_w}x{spatial * patch_h}, which this checkpoint folds"
        )
    frames = math.ceil((num_frames - 1) / config.scale_factor_temporal) + 1
    channels = components.transformer.config.in_channels
    return (1, channels, frames, height // spatial, width // spatial)
