"""The VAE decoder's GPU part: causal convolutions, each fed by one fused kernel.

Between two convolutions diffusers normalises, multiplies, activates, pads and concatenates the remembered
frames, each in a pass of its own. Here one kernel does it all, and biases are added by the kernel that reads
the result next. Replaying chunks as CUDA graphs gained 0.4 % on an H200 for 2 GiB, so it is not done.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)

_TENSOR_CORE_CHANNELS = 8
"""16-bit tensor-core convolutions want channels in multiples of 8 (cuDNN developer guide, "Tensor Ops")."""
_TILE_CHANNELS = 128
"""What cuDNN's fastest kernel draws at once: on an H200 96 channels take 3.7 ms by themselves, as part of 128 3.0."""


class FusedConv:
    """A causal 3-tap convolution with the norm and SiLU before it; it leaves its own bias to the next reader.

    Args:
        module: `WanCausalConv3d` with three taps in time.
        gain: (c,) of the norm before it, scale multiplied in; None for no norm and no SiLU.
        input_bias: (c,) that the convolution before left to this one.
    """

    def __init__(
        self, module: Any, *, gain: torch.Tensor | None = None, input_bias: torch.Tensor | None = None
    ) -> None:
        weight: torch.Tensor = module.weight.data
        self.bias: torch.Tensor = module.bias.data
        self._outputs = weight.shape[0]
        padded = F.pad(weight, (0, 0) * 4 + (0, _outputs_drawn(self._outputs) - self._outputs))
        self._weight = padded.contiguous(memory_format=torch.channels_last_3d)
        if padded.shape == weight.shape:
            module.weight.data = self._weight  # kept once
        self._padding = (0, module._padding[2], module._padding[0])
        self._gain = None if gain is None else gain.float()
        self._input_bias = input_bias
        self._past: torch.Tensor | None = None

    def forget(self) -> None:
        """Begin a new clip: nothing was before it."""
        self._past = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve (n, c, height, width), channels last; the bias is not yet added.

        What comes back may be the first channels of more.
        """
        from anime_studio.engine.decoder_kernels import remember_and_norm

        if self._past is None:
            self._past = x.new_zeros((2, *x.shape[1:])).contiguous(memory_format=torch.channels_last)
        seen = remember_and_norm(x, self._past, self._gain, self._input_bias)
        out = F.conv3d(seen.permute(1, 0, 2, 3)[None], self._weight, None, padding=self._padding)
        out = out.contiguous(memory_format=torch.channels_last_3d)  # as cuDNN gives it
        return out[0, : self._outputs].permute(1, 0, 2, 3)

    def biased(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve and add the bias: (n, channels, height, width), channels last."""
        drawn = self(x) + self.bias.view(1, -1, 1, 1)
        return drawn.contiguous(memory_format=torch.channels_last)


def _outputs_drawn(outputs: int) -> int:
    if _TILE_CHANNELS // 2 < outputs < _TILE_CHANNELS:
        return _TILE_CHANNELS
    return outputs + -outputs % _TENSOR_CORE_CHANNELS
