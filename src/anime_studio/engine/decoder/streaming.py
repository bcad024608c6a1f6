"""Latents -> frames, a chunk of latent frames at a time; each group of frames is yielded as soon as it is decoded.

This runs the decoder of diffusers' `AutoencoderKLWan` (Wan 2.1's, not the residual one of Wan 2.2) in steps of our own,
with the same weights and the same causality. Frames stay in one layout, (frames, channels, height, width) with channels
last in memory. Each causal convolution caches the two frames before the chunk.

On a CPU a causal 3D convolution runs as one 2D convolution over three concatenated frames: `conv3d` is 3 to 7 times
slower at small channel counts. On a GPU it runs as `conv3d` in channels_last_3d, which is the same memory in another
shape, and, with `Acceleration.fused_norms`, with fused kernels between convolutions (`fused`). Tests compare every path
with diffusers' own decode.

Source: diffusers 0.42.1, `autoencoder_kl_wan.py` (`WanDecoder3d`, `WanResample`, `AutoencoderKLWan._decode`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)

from anime_studio.core.errors import CheckpointError
from anime_studio.engine.acceleration import PLAIN, Acceleration
from anime_studio.engine.decoder.fused import FusedConv

Frames = torch.Tensor
"""(frames, channels, height, width), channels last in memory."""
Step = Callable[[Frames], Frames]

_NORM_EPSILON = 1e-12  # of `F.normalize`, which `WanRMS_norm` calls


class StreamingDecoder:
    """Decodes one clip after another with the VAE it was made from; not for two threads at once."""

    def __init__(self, vae: Any, acceleration: Acceleration = PLAIN) -> None:
        """Use the weights of *vae*, an `AutoencoderKLWan` on its device in its final dtype.

        Raises:
            CheckpointError: The decoder is of another kind than Wan 2.1's.
        """
        if getattr(vae.config, "is_residual", False):
            raise CheckpointError("vae/config.json: a residual decoder (Wan 2.2) is not supported")
        self._config = vae.config
        self._dtype: torch.dtype = vae.dtype
        self._chunk = acceleration.decode_chunk
        self._fused = acceleration.fused_norms
        self._causal: list[_CausalConv | FusedConv] = []
        self._temporal: list[_TemporalUpsample] = []
        self._steps = self._build(vae)
        mean = torch.tensor(vae.config.latents_mean, device=vae.device, dtype=self._dtype)
        std = torch.tensor(vae.config.latents_std, device=vae.device, dtype=self._dtype)
        self._mean, self._std = mean.view(1, -1, 1, 1), std.view(1, -1, 1, 1)

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield groups of frames, 1 for the first latent frame and 4 for each further one of a chunk.

        Args:
            latents: (1, z, latent frames, height / 8, width / 8), normalised as the denoiser gives them.

        Yields:
            Frames: (n, 3, height, width) in [-1, 1], in the VAE's dtype.
        """
        self._clear_caches()  # the clip before may have been abandoned
        frames = latents[0].permute(1, 0, 2, 3).to(self._dtype)
        # WanPipeline divides by 1/std; so do we, to its last bit.
        frames = frames / (1.0 / self._std) + self._mean
        for index, chunk in enumerate((frames[:1], *torch.split(frames[1:], self._chunk))):
            if len(chunk):
                yield self._decode(chunk.contiguous(memory_format=torch.channels_last), index == 0)
        self._clear_caches()

    def _clear_caches(self) -> None:
        # The caches of a 480p clip are 1.8 GiB, by count, which should not go into a memory snapshot.
        for conv in self._causal:
            conv.clear_cache()

    def _decode(self, x: Frames, first: bool) -> Frames:
        for upsample in self._temporal:
            upsample.first = first
        # On a GPU the shapes repeat, so it pays to let cuDNN search for its fastest algorithm once.
        allow_tf32 = torch.backends.cudnn.allow_tf32  # which `flags` would switch on
        with torch.backends.cudnn.flags(enabled=True, benchmark=self._fused, allow_tf32=allow_tf32):
            for step in self._steps:
                x = step(x)
        return _unpatchify(x, self._config.patch_size).clamp_(-1.0, 1.0)

    def _build(self, vae: Any) -> list[Step]:
        decoder = vae.decoder
        steps: list[Step] = [self._conv(vae.post_quant_conv), self._conv(decoder.conv_in)]
        middle = decoder.mid_block
        steps.append(self._residual(middle.resnets[0]))
        for attention, resnet in zip(middle.attentions, middle.resnets[1:], strict=True):
            if attention is not None:
                steps.append(_attention(attention))
            steps.append(self._residual(resnet))
        for block in decoder.up_blocks:
            steps.extend(self._residual(resnet) for resnet in block.resnets)
            if block.upsamplers is not None:
                steps.extend(self._upsample(block.upsamplers[0]))
        if self._fused:
            return [*steps, self._fused_conv(decoder.conv_out, norm=decoder.norm_out).biased]
        return [*steps, _norm_silu(decoder.norm_out), self._conv(decoder.conv_out)]

    def _conv(self, module: Any) -> Step:
        if self._fused and module.weight.shape[2] > 1:
            return self._fused_conv(module).biased
        conv = _CausalConv(module)
        self._causal.append(conv)
        return conv

    def _fused_conv(self, module: Any, norm: Any = None, input_bias: torch.Tensor | None = None) -> FusedConv:
        gain = None if norm is None else norm.gamma.data.flatten() * norm.scale
        conv = FusedConv(module, gain=gain, input_bias=input_bias)
        self._causal.append(conv)
        return conv

    def _residual(self, block: Any) -> Step:
        if self._fused:
            return self._fused_residual(block)
        norm1, conv1 = _norm_silu(block.norm1), self._conv(block.conv1)
        norm2, conv2 = _norm_silu(block.norm2), self._conv(block.conv2)
        shortcut = self._shortcut(block)

        def step(x: Frames) -> Frames:
            residual = x if shortcut is None else shortcut(x)
            return conv2(norm2(conv1(norm1(x)))).add_(residual)

        return step

    def _fused_residual(self, block: Any) -> Step:
        from anime_studio.engine.decoder.kernels import add_with_bias

        conv1 = self._fused_conv(block.conv1, norm=block.norm1)
        conv2 = self._fused_conv(block.conv2, norm=block.norm2, input_bias=conv1.bias)
        shortcut = self._shortcut(block)

        def step(x: Frames) -> Frames:
            residual = x if shortcut is None else shortcut(x)
            return add_with_bias(conv2(conv1(x)), conv2.bias, residual)

        return step

    def _shortcut(self, block: Any) -> Step | None:
        same = isinstance(block.conv_shortcut, torch.nn.Identity)
        return None if same else self._conv(block.conv_shortcut)

    def _upsample(self, resample: Any) -> list[Step]:
        spatial = _SpatialUpsample(resample.resample[1], fused=self._fused)
        if resample.mode != "upsample3d":
            return [spatial]
        temporal = _TemporalUpsample(self._conv(resample.time_conv))
        self._temporal.append(temporal)
        return [temporal, spatial]


class _CausalConv:
    """A convolution over each frame and, with 3 taps, the two frames before it; zeros before the first."""

    def __init__(self, module: Any) -> None:
        weight: torch.Tensor = module.weight.data
        self._taps = weight.shape[2]
        self._padding = (module._padding[2], module._padding[0])
        self._bias = module.bias.data
        self._flat = weight.device.type == "cpu" or self._taps == 1
        if self._flat:
            stacked = torch.cat(weight.unbind(2), dim=1)
            self._weight = stacked.contiguous(memory_format=torch.channels_last)
        else:
            self._weight = weight.contiguous(memory_format=torch.channels_last_3d)
        self._cache: Frames | None = None

    def clear_cache(self) -> None:
        self._cache = None

    def __call__(self, x: Frames) -> Frames:
        if self._taps == 1:
            return F.conv2d(x, self._weight, self._bias, padding=self._padding)
        if self._cache is None:
            self._cache = x.new_zeros((self._taps - 1, *x.shape[1:])).contiguous(
                memory_format=torch.channels_last
            )
        frames = torch.cat([self._cache, x])
        self._cache = frames[-(self._taps - 1) :]
        if self._flat:
            count = x.shape[0]
            taps = torch.cat([frames[tap : tap + count] for tap in range(self._taps)], dim=1)
            return F.conv2d(taps, self._weight, self._bias, padding=self._padding)
        clip = frames.permute(1, 0, 2, 3)[None]
        out = F.conv3d(clip, self._weight, self._bias, padding=(0, *self._padding))
        return out[0].permute(1, 0, 2, 3)


class _TemporalUpsample:
    """Makes two frames of each, except of the clip's first frame, which stays one and is not cached."""

    def __init__(self, conv: Step) -> None:
        self._conv = conv
        self.first = True

    def __call__(self, x: Frames) -> Frames:
        if self.first:
            return x
        pairs = self._conv(x)
        count, channels, height, width = x.shape
        # Channels stay last, so that one copy separates the pairs.
        pixels = pairs.permute(0, 2, 3, 1).reshape(count, height, width, 2, channels)
        split = pixels.permute(0, 3, 1, 2, 4).reshape(2 * count, height, width, channels)
        return split.permute(0, 3, 1, 2)


class _SpatialUpsample:
    """Doubles height and width by repeating pixels, then convolves 3x3; the repeated pixels are never written.

    Two of the three rows under the 3x3 kernel are copies of the same input row. So each output row depends on two input
    rows; which two, depends on whether the output row is even or odd. Columns likewise. Each of the four kinds of output
    pixel (phases) is therefore a 2x2 convolution of the input, whose weights are sums of the 3x3 weights: 16 products
    for each input pixel instead of 36.
    """

    def __init__(self, conv: Any, *, fused: bool) -> None:
        weight: torch.Tensor = conv.weight.data
        self._channels = weight.shape[0]
        self._weight = phase_weights(weight).to(weight.dtype).contiguous(memory_format=torch.channels_last)
        self._bias: torch.Tensor = conv.bias.data
        self._fused = fused

    def __call__(self, x: Frames) -> Frames:
        phases = F.conv2d(x, self._weight, padding=1)
        if self._fused:
            from anime_studio.engine.decoder.kernels import interleave_phases

            return interleave_phases(phases, self._bias)
        count, _, height, width = x.shape
        bias = self._bias.view(1, -1, 1, 1)
        out = x.new_empty((count, 2 * height, 2 * width, self._channels)).permute(0, 3, 1, 2)
        for index, phase in enumerate(torch.split(phases, self._channels, dim=1)):
            row, column = divmod(index, 2)
            # Row i of a phase is made of input rows i - 1 and i. Output row 2i needs these two, row 2i + 1 the next two.
            pixels = phase[:, :, row : row + height, column : column + width]
            torch.add(pixels, bias, out=out[:, :, row::2, column::2])
        return out


def phase_weights(weight: torch.Tensor) -> torch.Tensor:
    """Return the 2x2 kernels that give the four phases of a 3x3 convolution over repeated pixels.

    Args:
        weight: (out, in, 3, 3).

    Returns:
        float64 (4 out, in, 2, 2): even rows and even columns, even and odd, odd and even, odd and odd.
    """
    rows = _phase_weights(weight.double(), dim=2)
    return torch.cat([phase for row in rows for phase in _phase_weights(row, dim=3)])


def _phase_weights(weight: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    first, middle, last = weight.unbind(dim)
    return torch.stack([first, middle + last], dim), torch.stack([first + middle, last], dim)


def _norm_silu(norm: Any) -> Step:
    gain = (norm.gamma.data.flatten() * norm.scale).view(1, -1, 1, 1)

    def step(x: Frames) -> Frames:
        return F.silu(_normalise(x, gain), inplace=True)

    return step


def _normalise(x: Frames, gain: torch.Tensor) -> Frames:
    exact = x.float()
    length = torch.linalg.vector_norm(exact, dim=1, keepdim=True).clamp_min_(_NORM_EPSILON)
    scaled: Frames = exact * (gain / length)
    return scaled.to(x.dtype)


def _attention(block: Any) -> Step:
    gain = (block.norm.gamma.data.flatten() * block.norm.scale).view(1, -1, 1, 1)

    def step(x: Frames) -> Frames:
        count, channels, height, width = x.shape
        qkv = block.to_qkv(_normalise(x, gain)).flatten(2).transpose(1, 2)[:, None]
        query, key, value = qkv.chunk(3, dim=-1)
        attended = F.scaled_dot_product_attention(query, key, value)[:, 0]
        planes = attended.transpose(1, 2).reshape(count, channels, height, width)
        out: Frames = block.proj(planes)
        return out.add_(x).contiguous(memory_format=torch.channels_last)

    return step


def _unpatchify(x: Frames, patch_size: int | None) -> Frames:
    if patch_size is None or patch_size == 1:
        return x.contiguous()
    count, packed, height, width = x.shape
    channels = packed // patch_size**2
    # The order within a packed channel is (channel, column, row): `unpatchify` in autoencoder_kl_wan.py.
    tiles = x.reshape(count, channels, patch_size, patch_size, height, width)
    return tiles.permute(0, 1, 4, 3, 5, 2).reshape(count, channels, height * patch_size, width * patch_size)
