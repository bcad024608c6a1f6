"""The VAE as one differentiable pass over a whole clip, equal to diffusers' chunked encode and decode.

diffusers walks `AutoencoderKLWan` in chunks of four frames with a cache, which suits inference. Training wants
the clip at once: the same weights, the same causality. A plain call of encoder or decoder without that cache
leaves out the resampling in time, without a word. A test holds both forms to each other.

Source: diffusers 0.42.1, `autoencoder_kl_wan.py` (`WanEncoder3d`, `WanDecoder3d`, `WanResample`, `_encode`, `_decode`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    AutoencoderKLWan,
    WanResample,
    WanResidualBlock,
    patchify,
    unpatchify,
)

from training.config import Scale


def build_vae(scale: Scale) -> Any:
    """Return an untrained VAE."""
    return AutoencoderKLWan(**scale.vae)


def load_vae(folder: Path) -> Any:
    """Return the VAE in *folder*, in float32."""
    return AutoencoderKLWan.from_pretrained(folder, torch_dtype=torch.float32)


def encode_clip(vae: Any, clips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and log variance of the latents.

    Args:
        vae: `AutoencoderKLWan`.
        clips: (clips, 3, 4n + 1 frames, height, width) in [-1, 1].

    Returns:
        Two float32 tensors (clips, z, n + 1, height / 8, width / 8).
    """
    encoder = vae.encoder
    x = encoder.conv_in(patchify(clips, vae.config.patch_size))
    for layer in encoder.down_blocks:
        x = _layer(layer, x)
    x = encoder.conv_out(F.silu(_norm(encoder.norm_out, _middle(encoder.mid_block, x))))
    mean, log_variance = vae.quant_conv(x).float().chunk(2, dim=1)
    return mean, log_variance.clamp(-20, 10)


def decode_clip(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Return the clips of unnormalised latents: (clips, 3, 4n + 1 frames, height, width), about in [-1, 1]."""
    decoder = vae.decoder
    x = _middle(decoder.mid_block, decoder.conv_in(vae.post_quant_conv(latents)))
    for block in decoder.up_blocks:
        for resnet in block.resnets:
            x = _residual(resnet, x)
        if block.upsamplers is not None:
            x = _resample(block.upsamplers[0], x)
    x = decoder.conv_out(F.silu(_norm(decoder.norm_out, x)))
    clips: torch.Tensor = unpatchify(x, vae.config.patch_size)
    return clips


def channels_last(vae: Any) -> Any:
    """Lay the filters out as the tensor cores like them; return *vae*."""
    for module in vae.modules():
        if isinstance(module, torch.nn.Conv3d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
        elif isinstance(module, torch.nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    return vae


def latent_statistics(vae: Any, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation of the latents, shaped to broadcast over (clips, z, t, h, w)."""
    mean = torch.tensor(vae.config.latents_mean, device=device).view(1, -1, 1, 1, 1)
    return mean, torch.tensor(vae.config.latents_std, device=device).view(1, -1, 1, 1, 1)


def _layer(layer: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    if isinstance(layer, WanResidualBlock):
        return _residual(layer, x)
    if isinstance(layer, WanResample):
        return _resample(layer, x)
    raise TypeError(f"{type(layer).__name__} has no whole-clip form here")


def _residual(block: Any, x: torch.Tensor) -> torch.Tensor:
    y = block.conv1(F.silu(_norm(block.norm1, x)))
    out: torch.Tensor = block.conv2(F.silu(_norm(block.norm2, y))) + block.conv_shortcut(x)
    return out


def _middle(block: Any, x: torch.Tensor) -> torch.Tensor:
    x = _residual(block.resnets[0], x)
    for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
        x = _residual(resnet, _attention(attention, x))
    return x


def _attention(block: Any, x: torch.Tensor) -> torch.Tensor:
    clips, channels, frames, height, width = x.shape
    flat = x.transpose(1, 2).reshape(clips * frames, channels, height, width)
    qkv = block.to_qkv(_norm(block.norm, flat)).flatten(2).transpose(1, 2)[:, None]
    attended = F.scaled_dot_product_attention(*qkv.chunk(3, dim=-1))[:, 0]
    mixed: torch.Tensor = block.proj(
        attended.transpose(1, 2).reshape(clips * frames, channels, height, width)
    )
    mixed = mixed.view(clips, frames, channels, height, width).transpose(1, 2)
    return x + mixed


def _resample(block: Any, x: torch.Tensor) -> torch.Tensor:
    clips, channels, frames, height, width = x.shape
    if block.mode == "upsample3d" and frames > 1:  # the first frame stays one, and later ones do not see it
        doubled = block.time_conv(x[:, :, 1:]).reshape(clips, 2, channels, frames - 1, height, width)
        doubled = torch.stack((doubled[:, 0], doubled[:, 1]), 3).reshape(
            clips, channels, 2 * (frames - 1), height, width
        )
        x = torch.cat([x[:, :, :1], doubled], 2)
        frames = x.shape[2]
    flat = block.resample(x.transpose(1, 2).reshape(clips * frames, channels, height, width))
    x = flat.reshape(clips, frames, *flat.shape[1:]).transpose(1, 2)
    if block.mode == "downsample3d" and frames > 1:
        x = torch.cat([x[:, :, :1], block.time_conv(x)], 2)
    return x


def _norm(norm: Any, x: torch.Tensor) -> torch.Tensor:
    wide = x.float()
    scaled: torch.Tensor = wide * torch.rsqrt(wide.square().mean(1, keepdim=True) + 1e-12) * norm.gamma
    return scaled.to(x.dtype)
