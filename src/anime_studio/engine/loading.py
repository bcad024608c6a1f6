"""Read a checkpoint folder in diffusers' layout, or refuse it by the name of the file that is wrong.

Every weight file is checked before anything runs: present, whole, and holding exactly the tensors
that the component's configuration asks for. `from_pretrained` alone would warn and fill what is
missing with random numbers; a clip drawn on those must never be served.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.utils import logging as diffusers_logging
from transformers import AutoTokenizer, UMT5Config, UMT5EncoderModel
from transformers.utils import logging as transformers_logging

from anime_studio.core.errors import CheckpointError, OutOfMemoryError
from anime_studio.engine.acceleration import PLAIN, Acceleration, packing_for
from anime_studio.engine.linears import HostEmbedding
from anime_studio.engine.prepared_loading import pack_text, read_prepared
from anime_studio.engine.shards import check_tensors, read_header
from anime_studio.engine.streaming import stream_layers
from anime_studio.prepared import read_layout, require_packing, saying_remedy

_CLASSES = {
    "text_encoder": "UMT5EncoderModel",
    "transformer": "WanTransformer3DModel",
    "vae": "AutoencoderKLWan",
}
_MODELS: Mapping[str, Any] = {
    "text_encoder": UMT5EncoderModel,
    "transformer": WanTransformer3DModel,
    "vae": AutoencoderKLWan,
}
_WEIGHTS = {
    "text_encoder": "model.safetensors",
    "transformer": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
}
_TIED = frozenset({"shared.weight", "encoder.embed_tokens.weight"})
"""Two names of one matrix in UMT5; a file holds either or both."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Components:
    """The four loaded parts of a Wan pipeline, on one device.

    Attributes:
        folder: What they were read from: a checkpoint as fetched, or a prepared form of one.
        tokenizer: A transformers tokenizer.
        text_encoder: UMT5 encoder.
        transformer: The denoiser.
        vae: The autoencoder; only its decoder is used.
        scheduler_config: The checkpoint's own scheduler settings.
        device: Where all of them live.
        dtype: Of text encoder, denoiser and VAE: float32 on a CPU, bfloat16 on a GPU.
    """

    folder: Path
    tokenizer: Any
    text_encoder: Any
    transformer: Any
    vae: Any
    scheduler_config: Mapping[str, Any]
    device: torch.device
    dtype: torch.dtype


def load_components(folder: Path, device: torch.device, acceleration: Acceleration = PLAIN) -> Components:
    """Load and check every component of *folder* onto *device*; *acceleration* says how the text encoder is kept.

    Raises:
        CheckpointError: A file is missing, unreadable, truncated, of another architecture, or holds
            missing, unexpected or misshapen weights; the detail names the file.
        OutOfMemoryError: The device cannot hold it.
    """
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    layout = read_layout(folder)
    empty = check_folder(folder, weights=layout is None)
    try:
        with ThreadPoolExecutor(1) as aside:  # a vocabulary of 256,384 takes a second: as long as the weights
            tokenizer = aside.submit(_load_tokenizer, folder / "tokenizer")
            if layout is None:
                parts = _read_plain(folder, dtype, device, acceleration)
            else:
                require_packing(folder, layout, packing_for(device.type, acceleration))
                decoder_alone(empty["vae"])
                with saying_remedy(folder), _naming(folder):
                    parts = read_prepared(folder, empty, dtype, device, acceleration)
            return Components(
                folder=folder,
                tokenizer=tokenizer.result(),
                **parts,
                scheduler_config=_read_json(folder / "scheduler" / "scheduler_config.json"),
                device=device,
                dtype=dtype,
            )
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryError(f"{device} has no room for the checkpoint {folder}: {error}") from error


def check_folder(folder: Path, *, weights: bool) -> dict[str, Any]:
    """Check the configurations of a checkpoint, and with *weights* its weight files; return its models, empty.

    Raises:
        CheckpointError: See `load_components`.
    """
    _check_index(folder)
    empty = {name: _without_weights(folder / name) for name in _CLASSES}
    _check_agreement(folder, {name: model.config for name, model in empty.items()})
    for name, model in empty.items() if weights else ():
        expected = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
        check_weights(folder / name, _WEIGHTS[name], expected)
    return empty


def _read_plain(
    folder: Path, dtype: torch.dtype, device: torch.device, acceleration: Acceleration
) -> dict[str, Any]:
    return {
        "text_encoder": place_text_encoder(load_part(folder / "text_encoder", dtype), device, acceleration),
        "transformer": load_part(folder / "transformer", dtype).to(device),
        "vae": decoder_alone(load_part(folder / "vae", dtype)).to(device),
    }


def check_weights(folder: Path, file_name: str, expected: Shapes) -> None:
    """Check the safetensors of one component against the tensors its configuration asks for.

    Args:
        folder: The component's folder.
        file_name: Its weight file, or, with `.index.json` added, the index of its shards.
        expected: Name and shape of every tensor.

    Raises:
        CheckpointError: See `load_components`.
    """
    files = {path: read_header(path) for path in _weight_files(folder, file_name)}
    check_tensors(folder / file_name, files, expected, _TIED)


def _weight_files(folder: Path, file_name: str) -> list[Path]:
    index = folder / f"{file_name}.index.json"
    if not index.exists():
        return [folder / file_name]
    weight_map = _read_json(index).get("weight_map")
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise CheckpointError(f"{index} does not name the shards of this folder")
    return [folder / name for name in sorted(set(names))]


def _check_index(folder: Path) -> None:
    path = folder / "model_index.json"
    index = _read_json(path)
    if index.get("_class_name") != "WanPipeline":
        raise CheckpointError(f"{path} describes a {index.get('_class_name')}, not a WanPipeline")
    for name, expected in _CLASSES.items():
        entry = index.get(name)
        given = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
        if given != expected:
            raise CheckpointError(f"{path}: {name} is a {given}, not a {expected}")


def _check_agreement(folder: Path, configs: Mapping[str, Any]) -> None:
    """Refuse parts that do not fit each other, which no look at one part alone would show."""
    text, denoiser, vae = (configs[name] for name in ("text_encoder", "transformer", "vae"))
    if text.d_model != denoiser.text_dim:
        raise CheckpointError(
            f"{folder}: text_encoder/config.json gives {text.d_model} numbers a token, "
            f"transformer/config.json takes {denoiser.text_dim}"
        )
    path = folder / "vae" / "config.json"
    for key in ("latents_mean", "latents_std"):
        given = vae[key]
        if not isinstance(given, list | tuple) or len(given) != denoiser.in_channels:
            raise CheckpointError(f"{path}: {key} is not the denoiser's {denoiser.in_channels} numbers")
    for key in ("scale_factor_spatial", "scale_factor_temporal", "patch_size"):
        factor = vae[key]
        without = key == "patch_size" and factor is None
        if not without and (not isinstance(factor, int) or factor < 1):
            raise CheckpointError(f"{path}: {key} is {factor!r}, not a whole number from 1")


def _without_weights(folder: Path) -> Any:
    config = dict(_read_json(folder / "config.json"))
    # Buffers are real: those that no file holds, as the denoiser's rotary angles, are made by the constructor alone.
    with _naming(folder / "config.json"), init_empty_weights(include_buffers=False):
        if folder.name == "text_encoder":
            return UMT5EncoderModel(UMT5Config.from_dict(config))
        return _MODELS[folder.name].from_config(config)


def load_part(folder: Path, dtype: torch.dtype) -> Any:
    """Return the component in *folder*, a plain checkpoint's, on the CPU with its weights in *dtype*.

    Raises:
        CheckpointError: It cannot be read.
    """
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    with _naming(folder):
        return (
            _MODELS[folder.name]
            .from_pretrained(folder, local_files_only=True, torch_dtype=dtype, low_cpu_mem_usage=True)
            .eval()
        )


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn whatever a library raises over *path* into a refusal that names it; lack of memory is no fault of it."""
    try:
        yield
    except (CheckpointError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # transformers, diffusers and safetensors share no root of their errors
        if "not enough memory" in str(error):
            raise
        raise CheckpointError(f"{path} cannot be used: {type(error).__name__}: {error}") from error


def _load_tokenizer(folder: Path) -> Any:
    with _naming(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if tokenizer.pad_token is None:
            raise CheckpointError(f"{folder / 'tokenizer_config.json'} is missing or names no pad_token")
        return tokenizer


def decoder_alone(vae: Any) -> Any:
    """Return *vae* without its encoder: nothing here encodes, and a snapshot is 0.1 GiB smaller."""
    del vae.encoder, vae.quant_conv
    return vae


def place_text_encoder(text_encoder: Any, device: torch.device, acceleration: Acceleration) -> Any:
    """Return *text_encoder* on *device*, packed and with its embedding table in main memory if asked for."""
    pack_text(text_encoder, acceleration.text_weights, device)
    if acceleration.text_embedding_on_cpu:
        table = HostEmbedding(text_encoder.shared, device)
        text_encoder.shared = text_encoder.encoder.embed_tokens = table
    text_encoder = text_encoder.to(device)
    if acceleration.text_streamed:
        stream_layers(text_encoder.encoder, text_encoder.encoder.block, device)
    return text_encoder


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return content


def latent_shape(components: Components, num_frames: int, height: int, width: int) -> tuple[int, ...]:
    """Return (1, channels, latent frames, latent height, latent width) of a clip.

    Raises:
        CheckpointError: The size is not a multiple of what this checkpoint folds.
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
