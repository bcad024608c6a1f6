"""The VAE decoder's GPU parts: causal convolutions fed by one fused kernel, and chunks replayed as CUDA graphs.

Between two convolutions diffusers normalises, multiplies, activates, pads and concatenates the remembered
frames, each in a pass of its own. Here one kernel does it all, and biases are added by the kernel that reads
the result next. What a convolution remembers lies at a fixed address, so that a chunk can be a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)

_EAGER_RUNS = 2
"""Before a capture: Triton compiles, cuDNN looks for its fastest algorithm."""
_TENSOR_CORE_CHANNELS = 8
"""16-bit tensor-core convolutions want channels in multiples of 8 (cuDNN developer guide, "Tensor Ops")."""


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
        padded = F.pad(weight, (0, 0) * 4 + (0, -self._outputs % _TENSOR_CORE_CHANNELS))
        self._weight = padded.contiguous(memory_format=torch.channels_last_3d)
        self._padding = (0, module._padding[2], module._padding[0])
        self._gain = None if gain is None else gain.float()
        self._input_bias = input_bias
        self._pasts: dict[tuple[int, ...], torch.Tensor] = {}

    def forget(self) -> None:
        """Begin a new clip: nothing was before it."""
        for past in self._pasts.values():
            past.zero_()

    def remembered(self) -> list[torch.Tensor]:
        """Return the frames it remembers, for each size seen."""
        return list(self._pasts.values())

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve (n, c, height, width), channels last; the bias is not yet added."""
        from anime_studio.engine.kernels import remember_and_norm

        seen = remember_and_norm(x, self._past(x), self._gain, self._input_bias)
        out = F.conv3d(seen.permute(1, 0, 2, 3)[None], self._weight, None, padding=self._padding)
        frames = out[0, : self._outputs].permute(1, 0, 2, 3)
        return frames.contiguous(memory_format=torch.channels_last)

    def biased(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve and add the bias."""
        return self(x).add_(self.bias.view(1, -1, 1, 1))

    def _past(self, x: torch.Tensor) -> torch.Tensor:
        size = tuple(x.shape[1:])
        if size not in self._pasts:
            self._pasts[size] = x.new_zeros((2, *size)).contiguous(memory_format=torch.channels_last)
        return self._pasts[size]


class ChunkGraphs:
    """Replays *run* as one CUDA graph for each shape of chunk it meets.

    Args:
        run: Draws a chunk: (frames, whether it begins the clip) -> frames. It may keep state in fixed places.
        state: Returns those places; their contents survive a capture.
    """

    def __init__(
        self, run: Callable[[torch.Tensor, bool], torch.Tensor], state: Callable[[], list[torch.Tensor]]
    ) -> None:
        self._run, self._state = run, state
        self._captured: dict[
            tuple[tuple[int, ...], bool], tuple[torch.cuda.CUDAGraph, torch.Tensor, torch.Tensor]
        ] = {}
        self._pool: Any = None

    def __call__(self, frames: torch.Tensor, first: bool) -> torch.Tensor:
        """Draw a chunk; what is returned is overwritten by the next call."""
        key = (tuple(frames.shape), first)
        if key not in self._captured:
            self._captured[key] = self._capture(frames, first)
        graph, given, drawn = self._captured[key]
        given.copy_(frames)
        graph.replay()
        return drawn

    def _capture(
        self, frames: torch.Tensor, first: bool
    ) -> tuple[torch.cuda.CUDAGraph, torch.Tensor, torch.Tensor]:
        given = frames.clone(memory_format=torch.preserve_format)
        kept = [(place, place.clone()) for place in self._state()]
        for _ in range(_EAGER_RUNS):
            self._run(given, first)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            drawn = self._run(given, first)
        self._pool = graph.pool()
        for place in self._state():
            place.zero_()  # places made just now hold what the eager runs left
        for place, contents in kept:
            place.copy_(contents)
        return graph, given, drawn
