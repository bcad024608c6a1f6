"""Files of the smaller decoders, as they are published, with random weights in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from safetensors.torch import save_file

from anime_studio.checkpoints.decoders import relative_folder
from anime_studio.checkpoints.store import publish
from anime_studio.core.decoders import PUBLISHED, Decoder
from anime_studio.engine.decoder.taehv import published_shapes
from anime_studio.engine.loading.smaller_decoders import LIGHT_BASE_DIM
from anime_studio.engine.loading.wan_names import wan_name


def tiny_weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights under which signals keep their size, and pictures stay between black and white."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in published_shapes().items():
        gain = (2 / torch.Size(shape[1:]).numel()) ** 0.5 if len(shape) == 4 else 0.1
        weights[name] = gain * torch.randn(shape, generator=generator)
    weights["decoder.22.weight"] *= 0.01
    weights["decoder.22.bias"][:] = 0.5
    return weights


def light_vae(seed: int = 0) -> AutoencoderKLWan:
    torch.manual_seed(seed)
    return AutoencoderKLWan(base_dim=LIGHT_BASE_DIM).eval().requires_grad_(False)


def light_weights(vae: AutoencoderKLWan) -> dict[str, torch.Tensor]:
    """The VAE's weights under the names of Wan's authors."""
    return {wan_name(name, num_res_blocks=2): tensor for name, tensor in vae.state_dict().items()}


def write(path: Path, weights: Mapping[str, torch.Tensor]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)
    return path


def write_decoder(models: Path, decoder: Decoder, weights: Mapping[str, torch.Tensor]) -> Path:
    """Put a decoder's file where a fetch would, with a manifest of its own, and return it."""
    folder = models / relative_folder(PUBLISHED[decoder])
    partial = folder.with_name("partial")
    write(partial / PUBLISHED[decoder].file_name, weights)
    publish(partial, folder)
    return folder / PUBLISHED[decoder].file_name
