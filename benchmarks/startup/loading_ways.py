"""Every way to load a GPU container's weights, from files or from host memory, timed in one process.

That is the denoiser and the VAE: the text is encoded in a container of its own (ADR 22).

`make` writes a checkpoint with random weights and prepares it. `measure` loads it in each way, first without its files in
the page cache, then with them. Each result, or error, is printed as a line of JSON at once. `cold_start` runs both, each in
a process of its own, and makes a table of the lines.

    python -m benchmarks.startup.loading_ways make FOLDER [--cpu]
    python -m benchmarks.startup.loading_ways measure FOLDER [--cpu] [--deadline-s 120]
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

_BEGUN = time.perf_counter()

import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from anime_studio.checkpoints.manifest import Packing  # noqa: E402
from anime_studio.checkpoints.prepared import prepared_folder  # noqa: E402
from anime_studio.checkpoints.store import Checkpoint  # noqa: E402
from anime_studio.core.recipes import FASTWAN_3STEP, TINY_RANDOM, Recipe  # noqa: E402
from anime_studio.engine.acceleration import Acceleration, packing_for  # noqa: E402
from anime_studio.engine.loading.components import Components, load_components  # noqa: E402
from anime_studio.engine.loading.prepare import prepare  # noqa: E402
from anime_studio.engine.loading.tiny_random import write_checkpoint, write_tiny_random  # noqa: E402
from anime_studio.engine.startup import options_for  # noqa: E402
from benchmarks.engine.bench import machine_and_versions  # noqa: E402
from benchmarks.engine.sides import full_work, in_bfloat16  # noqa: E402

IMPORT_S = time.perf_counter() - _BEGUN
REVISION = "random"
WARM_RUNS = 3
COLD_LIMIT_S = 20.0
"""Slower storage is measured once: the other ways would read the same bytes from it."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Target:
    """What is loaded, and where to.

    Attributes:
        checkpoint: With random weights.
        device: Where to.
        options: Those that suit the device.
    """

    checkpoint: Checkpoint
    device: torch.device
    options: Acceleration

    @property
    def packing(self) -> Packing:
        """What the device asks for."""
        return packing_for(self.device.type)

    @property
    def prepared(self) -> Path:
        """The folder of the prepared checkpoint."""
        return prepared_folder(self.checkpoint, self.packing)


def recipe_for(*, cpu: bool) -> Recipe:
    """Return the recipe whose shape is loaded: Wan 2.1 1.3B's on a GPU, a tiny one on a CPU."""
    return TINY_RANDOM if cpu else FASTWAN_3STEP


def target_in(models: Path, *, cpu: bool) -> Target:
    """Return what `make` writes under *models*, and where it is loaded to."""
    recipe = recipe_for(cpu=cpu)
    device = CPU if cpu else torch.device("cuda", 0)
    options = options_for(recipe, device)
    return Target(Checkpoint.at(models / recipe.name / REVISION), device, options)


def make(target: Target) -> Iterator[dict[str, Any]]:
    """Write the checkpoint and prepare it."""
    yield {"step": "machine", **machine_and_versions(target.device), "cpu_cores": os.cpu_count()}
    begun = time.perf_counter()
    if target.device.type == "cpu":
        write_tiny_random(target.checkpoint.folder)
    else:
        parts = in_bfloat16(full_work(target.device)).components
        write_checkpoint(target.checkpoint.folder, parts.text_encoder, parts.transformer, parts.vae)
        del parts
    yield {"step": "write a checkpoint", "seconds": time.perf_counter() - begun}
    begun = time.perf_counter()
    prepare(target.checkpoint, target.packing)
    yield {
        "step": "weights prepare",
        "seconds": time.perf_counter() - begun,
        "source_bytes": _bytes_in(target.checkpoint.folder),
        "prepared_bytes": _bytes_in(target.prepared),
    }


def plain(target: Target) -> Components:
    """The checkpoint as fetched, converted on its way to the device."""
    unprepared = replace(target.checkpoint, prepared_base=target.checkpoint.folder / "nothing")
    return load_components(unprepared, target.device, with_text=False)


def prepared(target: Target) -> Components:
    """The prepared checkpoint."""
    return load_components(target.checkpoint, target.device, with_text=False)


def safetensors_alone(target: Target) -> list[dict[str, torch.Tensor]]:
    """The same shards by the library's reader, file after file: tensors, no models."""
    return [load_file(shard, device=str(target.device)) for shard in _shards_in(target.prepared)]


class FromHostMemory:
    """What a CPU memory snapshot leaves to do: copy the device's tensors from host memory to new device memory."""

    def __init__(self, target: Target, *, pinned: bool) -> None:
        models = prepared(target).models.values()
        tensors = [tensor.detach().cpu() for model in models for tensor in model.state_dict().values()]
        pinned = pinned and target.device.type == "cuda"
        self._tensors = [tensor.pin_memory() if pinned else tensor for tensor in tensors]

    def __call__(self, target: Target) -> list[torch.Tensor]:
        """Copy."""
        return [
            torch.empty_like(tensor, device=target.device).copy_(tensor, non_blocking=True)
            for tensor in self._tensors
        ]


def measure(target: Target, deadline_s: float) -> Iterator[dict[str, Any]]:
    """Time every way; the row of one that fails, or for which no time is left, has an `error_message`."""
    end = time.monotonic() + deadline_s
    begun = time.perf_counter()
    torch.zeros(1, device=target.device)
    yield {"step": "process", "import_s": IMPORT_S, "device_s": time.perf_counter() - begun}
    source, shards = target.checkpoint.folder, target.prepared
    ways: list[tuple[str, Path | None, Callable[[], Callable[[Target], Any]]]] = [
        ("prepared layout", shards, lambda: prepared),
        ("safetensors alone", shards, lambda: safetensors_alone),
        ("host memory, pageable", None, lambda: FromHostMemory(target, pinned=False)),
        ("host memory, pinned", None, lambda: FromHostMemory(target, pinned=True)),
        ("plain checkpoint", source, lambda: plain),
    ]
    slow_storage = False
    for name, folder, ready in ways:
        if time.monotonic() > end:
            yield {"way": name, "error_message": f"no time was left of {deadline_s:g} s"}
            continue
        try:
            row = _time(target, None if slow_storage else folder, ready(), end)
            slow_storage = slow_storage or row.get("cold_s", 0.0) > COLD_LIMIT_S
            yield {"way": name, "bytes": _bytes_in(folder or shards), **row}
        except Exception as error:  # noqa: BLE001  the other ways may succeed
            traceback.print_exc()
            yield {"way": name, "error_message": f"{type(error).__name__}: {error}"}
        _free_caches()


def _time(target: Target, cold: Path | None, load: Callable[[Target], Any], end: float) -> dict[str, Any]:
    """Return the row of one way; with *cold*, load first without that folder's files in the page cache."""
    row: dict[str, Any] = {}
    if cold is not None:
        _empty_page_cache(cold)
        before = _read_from_storage()
        row["cold_s"] = _once(target, load)["seconds"]
        row["cold_storage_bytes"] = None if before is None else (_read_from_storage() or 0) - before
    runs = []
    while not runs or (len(runs) < WARM_RUNS and time.monotonic() < end):
        _free_caches()
        runs.append(_once(target, load))
    warm = [run.pop("seconds") for run in runs]
    return row | {"warm_s": statistics.median(warm), "warm_runs_s": warm, **runs[-1]}


def _once(target: Target, load: Callable[[Target], Any]) -> dict[str, float]:
    """Return the seconds of one load, and the device memory after it: packing on the device leaves holes."""
    begun = time.perf_counter()
    loaded = load(target)
    _wait(target)
    seconds = time.perf_counter() - begun
    if target.device.type != "cuda":
        return {"seconds": seconds}
    gc.collect()
    torch.cuda.empty_cache()
    held = {"allocated_bytes": torch.cuda.memory_allocated(), "reserved_bytes": torch.cuda.memory_reserved()}
    del loaded
    return {"seconds": seconds, **held}


def _free_caches() -> None:
    """Free what allocators cache, so that no run reuses the memory of the one before."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch._C._host_emptyCache()  # pinned memory; torch has no public name for it


def _wait(target: Target) -> None:
    if target.device.type == "cuda":
        torch.cuda.synchronize()


def _empty_page_cache(folder: Path) -> None:
    os.sync()  # dirty pages are not dropped
    for path in _shards_in(folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _read_from_storage() -> int | None:
    """Return the bytes that this process has had read from storage (proc(5), `io`); None where that is not known."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))
    except (OSError, StopIteration):
        return None


def _shards_in(folder: Path) -> list[Path]:
    """Return the files that hold a GPU container's weights."""
    return sorted(path for part in ("transformer", "vae") for path in (folder / part).rglob("*.safetensors"))


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in _shards_in(folder))


def main() -> None:
    """Run one of the two; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("act", choices=["make", "measure"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--deadline-s", type=float, default=120)
    asked = parser.parse_args()
    target = target_in(asked.folder, cpu=asked.cpu or not torch.cuda.is_available())
    for row in make(target) if asked.act == "make" else measure(target, asked.deadline_s):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
