"""The models that a checkpoint's JSON files describe, built without weights, and its weight files checked against them.

Everything is checked before anything is loaded: each weight file is present, whole, and holds exactly the tensors that
the configuration asks for. `from_pretrained` alone would warn and fill missing tensors with random numbers, and a
clip generated with random weights must never be served. Each error names the file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from accelerate import init_empty_weights
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from transformers import UMT5Config, UMT5EncoderModel

from anime_studio.checkpoints.pipeline_files import WEIGHTS, check_index, read_json, weight_files
from anime_studio.checkpoints.safetensors_header import Headers, check_tensors, read_header
from anime_studio.core.errors import CheckpointError
from anime_studio.engine.loading.gated_transformer import GatedWanTransformer3DModel
from anime_studio.engine.torch_errors import is_lack_of_memory

MODELS: Mapping[str, Any] = {
    "text_encoder": UMT5EncoderModel,
    "transformer": WanTransformer3DModel,
    "vae": AutoencoderKLWan,
}
"""A pipeline's models, by the name of their folder."""
_TIED = frozenset({"shared.weight", "encoder.embed_tokens.weight"})
"""Two names of one matrix in UMT5; a file holds either or both."""


_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


def model_class(part: str, *, gated: bool) -> Any:
    """Return the class of a pipeline's *part*; *gated* as `Checkpoint.gated`."""
    return GatedWanTransformer3DModel if gated and part == "transformer" else MODELS[part]


def empty_models(folder: Path, *, gated: bool = False) -> dict[str, Any]:
    """Return the models of the checkpoint in *folder*, their weights on the meta device; *gated* as `Checkpoint.gated`.

    Raises:
        CheckpointError: A JSON file is missing or unreadable, describes another pipeline or model, or the models do
            not fit together.
    """
    check_index(folder)
    models = {name: _without_weights(folder / name, gated=gated) for name in MODELS}
    _check_agreement(folder, {name: model.config for name, model in models.items()})
    return models


def check_source(folder: Path, *, gated: bool = False) -> None:
    """Check the JSON files and the weight files of a checkpoint as fetched; *gated* as `Checkpoint.gated`.

    Raises:
        CheckpointError: See `empty_models`; or a weight file is missing, truncated, or holds missing, unexpected or
            misshapen tensors.
    """
    for name, model in empty_models(folder, gated=gated).items():
        expected = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
        files = {path: read_header(path) for path in weight_files(folder / name)}
        check_tensors(folder / name / WEIGHTS[name], files, expected, _TIED)
        _check_dtypes(files)


def _check_dtypes(files: Headers) -> None:
    """Refuse integer and 8-bit codes: without their scales, which no configuration of ours names, they draw noise."""
    for path, entries in files.items():
        for name, entry in entries.items():
            if entry.dtype not in _FLOATS:
                raise CheckpointError(
                    f"{path}: weight {name} is {entry.dtype}, a quantized code without a scale; "
                    f"fetch the checkpoint in one of {', '.join(sorted(_FLOATS))}"
                )


def _check_agreement(folder: Path, configs: Mapping[str, Any]) -> None:
    """Refuse models that do not fit together; each configuration alone would not show it."""
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


def _without_weights(folder: Path, *, gated: bool) -> Any:
    config = dict(read_json(folder / "config.json"))
    # Buffers get real memory: no file holds the denoiser's rotary angles, the constructor computes them.
    with library_errors(folder / "config.json"), init_empty_weights(include_buffers=False):
        if folder.name == "text_encoder":
            return UMT5EncoderModel(UMT5Config.from_dict(config))
        return model_class(folder.name, gated=gated).from_config(config)


def without_encoder(vae: Any) -> Any:
    """Return *vae* without its encoder: nothing here encodes, and a snapshot is 0.1 GiB smaller."""
    del vae.encoder, vae.quant_conv
    return vae


@contextlib.contextmanager
def library_errors(path: Path) -> Iterator[None]:
    """Turn what a library raises about *path* into a `CheckpointError` that names it; lack of memory passes through."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # transformers, diffusers and safetensors have no common base of their errors
        if is_lack_of_memory(error):
            raise
        raise CheckpointError(f"{path} cannot be used: {type(error).__name__}: {error}") from error
