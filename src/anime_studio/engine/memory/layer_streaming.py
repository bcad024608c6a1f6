"""Layers whose weights stay in host memory and are copied to the device just before they compute.

UMT5-XXL is three quarters of the weights and computes for a fiftieth of a clip's time: on the GPU it would only make the
memory snapshot larger. The copies run on a stream of their own, two layers ahead, while other layers compute. diffusers'
group offloading does the same, but copies each tensor by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from anime_studio.engine.memory.pinned import allocate, padded

_SLOTS = 2
"""Layer-sized buffers on the device: one layer computes in one while the next layer is copied into the other."""


def stream_layers(
    model: nn.Module,
    layers: Sequence[nn.Module],
    device: torch.device,
    host_buffers: Sequence[torch.Tensor] | None = None,
) -> None:
    """Keep the weights of *layers* in host memory and copy each layer to *device* before *model* runs it.

    Args:
        model: Runs the layers in the order given, each once; for one thread at a time.
        layers: All of them, on any device; their weights move.
        device: A CUDA device; a CPU for tests, where copies and computation take turns.
        host_buffers: The layers' weights, if they are in host memory already, laid out as by `host_buffer_for`.
    """
    stream = _LayerStream(layers, device, host_buffers)
    model.register_forward_pre_hook(stream.copy_first_layers)
    for index, layer in enumerate(layers):
        layer.register_forward_pre_hook(partial(stream.wait_for, index))
        layer.register_forward_hook(partial(stream.copy_after, index))


class _LayerStream:
    def __init__(
        self, layers: Sequence[nn.Module], device: torch.device, host_buffers: Sequence[torch.Tensor] | None
    ) -> None:
        on_gpu = device.type == "cuda"
        self._host = list(host_buffers or (_copy_to_host(layer, pinned=on_gpu) for layer in layers))
        size_bytes = max(len(buffer) for buffer in self._host)
        self._slots = [torch.empty(size_bytes, dtype=torch.uint8, device=device) for _ in range(_SLOTS)]
        for index, layer in enumerate(layers):
            _view_into(layer, self._slots[index % _SLOTS])
        self._stream = torch.cuda.Stream(device) if on_gpu else None  # type: ignore[no-untyped-call]
        self._copied: list[Any] = [torch.cuda.Event() if on_gpu else None for _ in layers]  # type: ignore[no-untyped-call]

    def copy_first_layers(self, *_: Any) -> None:
        """Start the copies of the first layers, before the model runs."""
        for index in range(min(_SLOTS, len(self._host))):
            self._copy(index)

    def wait_for(self, index: int, *_: Any) -> None:
        """Make layer *index* wait for its own copy, before it computes."""
        if self._stream is not None:
            torch.cuda.current_stream().wait_event(self._copied[index])

    def copy_after(self, index: int, *_: Any) -> None:
        """Start the copy of the layer that uses the slot of layer *index* next."""
        if index + _SLOTS < len(self._host):
            self._copy(index + _SLOTS)

    def _copy(self, index: int) -> None:
        buffer, slot = self._host[index], self._slots[index % _SLOTS]
        if self._stream is None:
            slot[: len(buffer)].copy_(buffer)
            return
        self._stream.wait_stream(torch.cuda.current_stream())  # the slot's last layer must have computed
        with torch.cuda.stream(self._stream):
            slot[: len(buffer)].copy_(buffer, non_blocking=True)
            self._copied[index].record()


def host_buffer_for(layer: nn.Module, *, pinned: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return uninitialised host memory for a layer's weights and buffers, and its parts by their names.

    Who reads the layer's weights from files reads them into these parts.
    """
    ranges = list(_ranges(layer))
    _, _, begin, count = ranges[-1]
    buffer = allocate(begin + count, pinned=pinned)
    parts = {name: _part(buffer, tensor, begin, count) for name, tensor, begin, count in ranges}
    return buffer, parts


def _ranges(layer: nn.Module) -> Iterator[tuple[str, torch.Tensor, int, int]]:
    """Yield each weight and buffer: its name, the tensor, where its bytes begin and how many they are."""
    begin = 0
    for name, tensor in (*layer.named_parameters(), *layer.named_buffers()):
        count = tensor.numel() * tensor.element_size()
        yield name, tensor, begin, count
        begin += padded(count)


def _part(buffer: torch.Tensor, like: torch.Tensor, begin: int, count: int) -> torch.Tensor:
    return buffer[begin : begin + count].view(like.dtype).view(like.shape)


def _copy_to_host(layer: nn.Module, *, pinned: bool) -> torch.Tensor:
    buffer, parts = host_buffer_for(layer, pinned=pinned)
    for name, tensor, _, _ in _ranges(layer):
        parts[name].copy_(tensor.detach())
    return buffer


def _view_into(layer: nn.Module, slot: torch.Tensor) -> None:
    for _, tensor, begin, count in list(_ranges(layer)):
        tensor.data = _part(slot, tensor, begin, count)
