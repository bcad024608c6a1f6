"""A decoder that stands in for the checkpoint's own: from its one published file to a model on a device.

The file is read in the layout that its authors publish. Every tensor in it is accounted for, its encoder's too: one
that is missing, unexpected, of another shape or dtype, or not finite, refuses the file by name. The two files of TAEHV's
shape have the same names and shapes and read different latents; only their dtypes differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from accelerate import init_empty_weights
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from safetensors.torch import load_file

from anime_studio.checkpoints.safetensors_header import Entry, check_tensors, read_header
from anime_studio.core.decoders import Decoder
from anime_studio.core.errors import CheckpointError
from anime_studio.engine.decoder.taehv import Taehv, published_shapes
from anime_studio.engine.loading.architecture import library_errors, without_encoder
from anime_studio.engine.loading.wan_names import wan_name
from anime_studio.engine.loading.widen import BASE_DIM, widened

LIGHT_BASE_DIM: Final = 24
"""A quarter of Wan 2.1's 96: ModelTC/LightX2V at f8aee98, `wan/vae.py` (`use_lightvae`: `pruning_rate` 0.75)."""
_PUBLISHED_DTYPE: Final = "F32"
"""Of both files, by their sizes. A file of TAEHV's shape in F16 is `taew2_1`, which reads normalised latents."""


def load_smaller_decoder(decoder: Decoder, path: Path, vae_config: Any, device: torch.device) -> Any:
    """Return the model in *path*, ready for `decoder_for`: its weights on *device* in their final dtype.

    Args:
        decoder: `LIGHT` or `TINY`.
        path: Its published file.
        vae_config: Of the checkpoint's own VAE, whose latents it will read.
        device: float32 on a CPU; on a GPU bfloat16 for `LIGHT`, as the full decoder, float16 for `TINY`, as published.

    Raises:
        CheckpointError: The file, or what the checkpoint says of its latents, is wrong; the detail names it.
        torch.OutOfMemoryError: The device cannot hold it.
    """
    light = _empty(LIGHT_BASE_DIM)
    _check_latents(decoder, vae_config, light.config)
    on_gpu = device.type == "cuda"
    if decoder is Decoder.TINY:
        model: Any = Taehv(vae_config, _read(path, published_shapes()))
        return model.to(device, torch.float16 if on_gpu else torch.float32).eval()
    _fill(light, path)
    model = without_encoder(light)
    if on_gpu:
        model = widened(model, without_encoder(_empty(BASE_DIM)))
    return model.to(device, torch.bfloat16 if on_gpu else torch.float32).eval().requires_grad_(False)


def _empty(base_dim: int) -> Any:
    with init_empty_weights(include_buffers=False):
        return AutoencoderKLWan(base_dim=base_dim)


def _fill(light: Any, path: Path) -> None:
    depth = light.config.num_res_blocks
    names = {wan_name(name, num_res_blocks=depth): name for name in light.state_dict()}
    shapes = {theirs: tuple(light.state_dict()[ours].shape) for theirs, ours in names.items()}
    weights = {names[name]: tensor for name, tensor in _read(path, shapes).items()}
    light.load_state_dict(weights, assign=True)


def _check_latents(decoder: Decoder, given: Any, trained_for: Any) -> None:
    """Refuse a checkpoint whose latents are not those of Wan 2.1's VAE, as diffusers' defaults state them."""
    for key in ("z_dim", "latents_mean", "latents_std"):
        if given[key] != trained_for[key]:
            raise CheckpointError(
                f"decoder {decoder} reads the latents of Wan 2.1's VAE; vae/config.json gives another {key}: "
                "use ANIME_STUDIO_DECODER=full"
            )


def _read(path: Path, expected: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    entries = read_header(path)
    check_tensors(path, {path: entries}, expected)
    for name, entry in entries.items():
        _check_dtype(path, name, entry)
    with library_errors(path):
        weights = load_file(path)
    for name, tensor in weights.items():
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{path}: weight {name} holds NaN or infinity")
    return weights


def _check_dtype(path: Path, name: str, entry: Entry) -> None:
    if entry.dtype != _PUBLISHED_DTYPE:
        raise CheckpointError(f"{path}: weight {name} is {entry.dtype}, this decoder is {_PUBLISHED_DTYPE}")
