"""Weights that leave their device and come back are the weights they were; `tests/gpu` does it on a GPU."""

import pytest
import torch
from torch import nn

from anime_studio.engine import stowage
from anime_studio.engine.stowage import Stowage

CPU = torch.device("cpu")


class Model(nn.Module):
    """Odd sizes, mixed types, a buffer, two weights in one place, an empty one."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        place = torch.randn(10, generator=generator)
        self.first, self.second = nn.Parameter(place[:3]), nn.Parameter(place[3:])
        self.linear = nn.Linear(7, 5)
        self.register_buffer("narrow", torch.randn(33, generator=generator).to(torch.float8_e4m3fn))
        self.register_buffer("none", torch.empty(0))

    def places(self) -> set[torch.UntypedStorage]:
        return {tensor.untyped_storage() for tensor in (*self.parameters(), *self.buffers())}


def bits(model: nn.Module) -> dict[str, bytes]:
    return {
        name: tensor.flatten()
        .view(torch.uint8)
        .clone()
        .numpy()
        .tobytes()  # numpy pins the place it looks into
        for name, tensor in model.state_dict().items()
    }


def test_stowed_weights_give_up_their_places_and_come_back_bit_by_bit():
    model = Model()
    before, given = bits(model), model.linear(torch.ones(7))
    kept = Stowage([model], CPU)

    for _ in range(2):
        kept.stow()
        assert not any(place.nbytes() for place in model.places())
        kept.fetch()
        assert bits(model) == before
        assert torch.equal(model.linear(torch.ones(7)), given)


def test_weights_changed_while_awake_are_stowed_anew():
    model = Model()
    kept = Stowage([model], CPU)
    kept.stow()
    kept.fetch()
    with torch.no_grad():
        model.linear.weight += 1
    changed = bits(model)

    kept.stow()
    kept.fetch()

    assert bits(model) == changed


def test_stowing_or_fetching_twice_loses_nothing():
    model = Model()
    before = bits(model)
    kept = Stowage([model], CPU)

    kept.fetch()
    kept.stow()
    kept.stow()
    kept.fetch()
    kept.fetch()

    assert bits(model) == before


def test_without_room_in_main_memory_the_weights_stay(monkeypatch):
    def no_room(size_bytes: int, *, locked: bool) -> torch.Tensor:
        raise RuntimeError("not enough memory")

    monkeypatch.setattr(stowage, "room", no_room)
    model = Model()
    before = bits(model)

    with pytest.raises(RuntimeError):
        Stowage([model], CPU)

    assert bits(model) == before
