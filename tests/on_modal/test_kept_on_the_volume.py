"""Kernels on the Volume: the first container keeps them, later ones find them, and nothing that fails delays a start.

The client is real, the server ours.
"""

from collections.abc import Iterator
from pathlib import Path

import modal
import pytest
import structlog
from grpclib import Status

from anime_studio.checkpoints.store import Checkpoint
from anime_studio.core.recipes import TINY_RANDOM, Recipe
from anime_studio.engine.kernel_cache import KernelCache
from anime_studio.on_modal.kernels import FOLDER, StoredKernels
from anime_studio.on_modal.settings import MODELS_VOLUME
from anime_studio.telemetry import LogEvent
from support.modal_plane import ControlPlane

pytestmark = pytest.mark.modal


@pytest.fixture
def plane(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    control_plane.volumes.create(MODELS_VOLUME)
    with control_plane.client():
        yield control_plane


@pytest.fixture
def logged() -> Iterator[list[dict[str, object]]]:
    with structlog.testing.capture_logs() as lines:
        yield lines


class Container:
    """A container with a disk of its own, and the Volume as it was when it was mounted or reloaded."""

    def __init__(self, plane: ControlPlane, folder: Path, card: str = "L4") -> None:
        self.local, self._mount = folder / "local", folder / "mount"
        self._plane, self._card = plane, card
        self.reload()
        self.kernels = StoredKernels(modal.Volume.from_name(MODELS_VOLUME), make_cache=self._cache)

    def _cache(self, recipe: Recipe, checkpoint: Checkpoint) -> KernelCache:
        made_for = {"card": self._card, "recipe": recipe.name, "decoder": str(checkpoint.decoder)}
        return KernelCache(self._mount / FOLDER, self.local, made_for)

    def reload(self) -> None:
        for name, content in self._plane.volumes.read(MODELS_VOLUME).items():
            (self._mount / name).parent.mkdir(parents=True, exist_ok=True)
            (self._mount / name).write_bytes(content)

    def load(self) -> bool:
        """Find kernels, or compile them; return whether they were found."""
        found = self.kernels.restore(TINY_RANDOM, Checkpoint.at(Path("/models/tiny-random/random-0")))
        if not found:
            self.local.mkdir(parents=True)
            (self.local / "kernel.cubin").write_bytes(b"compiled")
        return found

    def start(self) -> bool:
        """Load, and keep what was compiled; return whether kernels were found."""
        found = self.load()
        self.kernels.keep(replace=True)
        if self.kernels.keeping is not None:
            self.kernels.keeping.join()
        return found


def kept(plane: ControlPlane) -> set[str]:
    return {name for name in plane.volumes.read(MODELS_VOLUME) if name.startswith(f"{FOLDER}/")}


def test_the_first_container_keeps_what_it_compiled_and_the_next_one_finds_it(
    plane: ControlPlane, tmp_path: Path, logged: list[dict[str, object]]
):
    assert not Container(plane, tmp_path / "first").start()
    assert len(kept(plane)) == 1

    second = Container(plane, tmp_path / "second")
    assert second.start()
    assert (second.local / "kernel.cubin").read_bytes() == b"compiled"
    assert second.kernels.keeping is None, "there is nothing new to keep"
    assert not Container(plane, tmp_path / "third", card="H100").start(), "another card, other kernels"
    assert len(kept(plane)) == 2
    assert [line["event"] for line in logged] == [LogEvent.KERNELS_KEPT] * 2


def test_a_damaged_file_is_compiled_anew_and_replaced(
    plane: ControlPlane, tmp_path: Path, logged: list[dict[str, object]]
):
    Container(plane, tmp_path / "first").start()
    (name,) = kept(plane)
    whole = plane.volumes.read(MODELS_VOLUME)[name]
    plane.volumes.write(MODELS_VOLUME, name, whole[:-20])

    assert not Container(plane, tmp_path / "second").start()

    assert Container(plane, tmp_path / "third").start()
    assert LogEvent.KERNELS_REFUSED in [line["event"] for line in logged]


def test_a_restored_container_keeps_nothing_where_there_is_a_file(plane: ControlPlane, tmp_path: Path):
    snapshot = Container(plane, tmp_path / "snapshot")
    assert not snapshot.load()
    Container(plane, tmp_path / "maker").start()
    snapshot.reload()

    snapshot.kernels.keep(replace=False)

    assert snapshot.kernels.keeping is None


@pytest.mark.parametrize("rpc", ["VolumePutFiles", "MountPutFile"])
def test_an_upload_that_fails_costs_no_start(
    plane: ControlPlane, tmp_path: Path, logged: list[dict[str, object]], rpc: str
):
    plane.fail_next(rpc, Status.PERMISSION_DENIED)

    assert not Container(plane, tmp_path / "first").start()

    assert [line["event"] for line in logged] == [LogEvent.KERNELS_NOT_KEPT]
    assert kept(plane) == set(), "a file is there whole or not at all"


def test_a_device_that_cannot_be_asked_costs_no_start(plane: ControlPlane, logged: list[dict[str, object]]):
    def broken(*_: object) -> KernelCache:
        raise RuntimeError("CUDA error: unknown error")

    kernels = StoredKernels(modal.Volume.from_name(MODELS_VOLUME), make_cache=broken)
    assert not kernels.restore(TINY_RANDOM, Checkpoint.at(Path("/nowhere/tiny-random/random-0")))
    kernels.keep(replace=True)
    assert kernels.keeping is None
    assert [line["event"] for line in logged] == [LogEvent.KERNELS_REFUSED]


def test_the_newest_eight_files_stay(plane: ControlPlane, tmp_path: Path):
    for number in range(10):
        Container(plane, tmp_path / str(number), card=f"card {number}").start()
    assert len(kept(plane)) == 8
    assert Container(plane, tmp_path / "again", card="card 9").start()
