"""Weights that are offloaded and fetched are the weights they were; `tests/gpu` does it on a GPU."""

import pytest
import torch
from torch import nn

from anime_studio.engine.memory import sleep
from anime_studio.engine.memory.sleep import WeightOffload

CPU = torch.device("cpu")


class Model(nn.Module):
    """Odd sizes, mixed dtypes, a buffer, two weights in one storage, an empty one."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        shared = torch.randn(10, generator=generator)
        self.first, self.second = nn.Parameter(shared[:3]), nn.Parameter(shared[3:])
        self.linear = nn.Linear(7, 5)
        self.register_buffer("e4m3", torch.randn(33, generator=generator).to(torch.float8_e4m3fn))
        self.register_buffer("none", torch.empty(0))

    def storages(self) -> set[torch.UntypedStorage]:
        return {tensor.untyped_storage() for tensor in (*self.parameters(), *self.buffers())}


def bits(model: nn.Module) -> dict[str, bytes]:
    # Of a clone: a storage that numpy has a view of cannot be resized.
    tensors = model.state_dict().items()
    return {name: tensor.flatten().view(torch.uint8).clone().numpy().tobytes() for name, tensor in tensors}


def test_offloaded_weights_free_their_storages_and_come_back_bit_by_bit():
    model = Model()
    before, given = bits(model), model.linear(torch.ones(7))
    weights = WeightOffload([model], CPU)

    for _ in range(2):
        weights.offload()
        assert not any(storage.nbytes() for storage in model.storages())
        weights.fetch()
        assert bits(model) == before
        assert torch.equal(model.linear(torch.ones(7)), given)


def test_weights_changed_while_awake_are_offloaded_as_they_are():
    model = Model()
    weights = WeightOffload([model], CPU)
    weights.offload()
    weights.fetch()
    with torch.no_grad():
        model.linear.weight += 1
    changed = bits(model)

    weights.offload()
    weights.fetch()

    assert bits(model) == changed


def test_offloading_or_fetching_twice_loses_nothing():
    model = Model()
    before = bits(model)
    weights = WeightOffload([model], CPU)

    weights.fetch()
    weights.offload()
    weights.offload()
    weights.fetch()
    weights.fetch()

    assert bits(model) == before


def test_without_room_in_host_memory_the_weights_stay_until_there_is_room(monkeypatch):
    def no_room(size_bytes: int, *, pinned: bool) -> torch.Tensor:
        raise RuntimeError("not enough memory")

    model = Model()
    before, weights = bits(model), WeightOffload([model], CPU)
    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr(sleep, "allocate", no_room)
        weights.offload()
    assert bits(model) == before

    weights.offload()
    weights.fetch()
    assert bits(model) == before
