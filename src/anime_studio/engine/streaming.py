"""Layers whose weights wait in main memory and are copied to the device just before their turn.

UMT5-XXL is three quarters of the weights and works for a fiftieth of a clip's time: kept on the GPU it fills the
memory snapshot and nothing else. Copies run on a stream of their own, two layers ahead, while other layers compute.
diffusers' group offloading does the same; it copies each tensor by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from anime_studio.engine.locked_memory import padded, room

_SLOTS = 2
"""Places on the device: one layer computes while the next one arrives."""


def stream_layers(
    model: nn.Module,
    layers: Sequence[nn.Module],
    device: torch.device,
    homes: Sequence[torch.Tensor] | None = None,
) -> None:
    """Keep the weights of *layers* in main memory and bring each to *device* as *model* comes to it.

    Args:
        model: Runs the layers in the order given, each once; for one thread at a time.
        layers: All of them, on any device; their weights move.
        device: A CUDA device; a CPU for tests, where nothing is ahead of anything.
        homes: The layers' bytes in main memory where they lie there already, as `home_for` lays them out.
    """
    stream = _LayerStream(layers, device, homes)
    model.register_forward_pre_hook(stream.begin)
    for index, layer in enumerate(layers):
        layer.register_forward_pre_hook(stream.wait_for(index))
        layer.register_forward_hook(stream.follow(index))


class _LayerStream:
    def __init__(
        self, layers: Sequence[nn.Module], device: torch.device, homes: Sequence[torch.Tensor] | None
    ) -> None:
        on_gpu = device.type == "cuda"
        self._host = list(homes or (_gather(layer, locked=on_gpu) for layer in layers))
        size_bytes = max(len(flat) for flat in self._host)
        self._slots = [torch.empty(size_bytes, dtype=torch.uint8, device=device) for _ in range(_SLOTS)]
        for index, layer in enumerate(layers):
            _view_into(layer, self._slots[index % _SLOTS])
        self._copies = torch.cuda.Stream(device) if on_gpu else None  # type: ignore[no-untyped-call]
        self._copied: list[Any] = [torch.cuda.Event() if on_gpu else None for _ in layers]  # type: ignore[no-untyped-call]

    def begin(self, *_: Any) -> None:
        """Before the model runs: send its first layers on their way."""
        for index in range(min(_SLOTS, len(self._host))):
            self._send(index)

    def wait_for(self, index: int) -> Any:
        """Return what a layer does before it computes."""

        def hook(*_: Any) -> None:
            if self._copies is not None:
                torch.cuda.current_stream().wait_event(self._copied[index])

        return hook

    def follow(self, index: int) -> Any:
        """Return what a layer does once its work is queued: its place is the next but one's."""

        def hook(*_: Any) -> None:
            if index + _SLOTS < len(self._host):
                self._send(index + _SLOTS)

        return hook

    def _send(self, index: int) -> None:
        flat, slot = self._host[index], self._slots[index % _SLOTS]
        if self._copies is None:
            slot[: len(flat)].copy_(flat)
            return
        self._copies.wait_stream(torch.cuda.current_stream())  # whoever read this slot last has then done so
        with torch.cuda.stream(self._copies):
            slot[: len(flat)].copy_(flat, non_blocking=True)
            self._copied[index].record()


def home_for(layer: nn.Module, *, locked: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return room for a layer's bytes in main memory, and each weight and buffer as a part of it, by name.

    What they hold is undefined: whoever reads the layer's weights reads them into these.
    """
    places = list(_places(layer))
    _, _, begin, count = places[-1]
    flat = room(begin + count, locked=locked)
    parts = {name: _part(flat, tensor, begin, count) for name, tensor, begin, count in places}
    return flat, parts


def _places(layer: nn.Module) -> Iterator[tuple[str, torch.Tensor, int, int]]:
    """Yield each weight and buffer, its name first, with where its bytes begin and how many they are."""
    begin = 0
    for name, tensor in (*layer.named_parameters(), *layer.named_buffers()):
        count = tensor.numel() * tensor.element_size()
        yield name, tensor, begin, count
        begin += padded(count)


def _part(flat: torch.Tensor, like: torch.Tensor, begin: int, count: int) -> torch.Tensor:
    return flat[begin : begin + count].view(like.dtype).view(like.shape)


def _gather(layer: nn.Module, *, locked: bool) -> torch.Tensor:
    flat, parts = home_for(layer, locked=locked)
    for name, tensor, _, _ in _places(layer):
        parts[name].copy_(tensor.detach())
    return flat


def _view_into(layer: nn.Module, slot: torch.Tensor) -> None:
    for _, tensor, begin, count in list(_places(layer)):
        tensor.data = _part(slot, tensor, begin, count)
