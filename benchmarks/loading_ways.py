"""Every way from files, or from main memory, to an engine's weights where they stay: timed in one process.

`make` writes a checkpoint with random weights and prepares it; `measure` takes each way to it, first with the
page cache emptied of its files, then warm. Each result is a line of JSON as soon as it is there, an error too.
`cold_start.py` runs both, each as a process of its own, and makes a table of what they say.

    python benchmarks/loading_ways.py make FOLDER [--cpu]
    python benchmarks/loading_ways.py measure FOLDER [--cpu] [--deadline-s 120]
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
from engine_bench import machine_and_versions  # noqa: E402
from engine_parts import full_work, narrow  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from anime_studio.core.recipes import FASTWAN_3STEP, TINY_RANDOM, Recipe  # noqa: E402
from anime_studio.engine.acceleration import Acceleration, TextWeights, packing_for  # noqa: E402
from anime_studio.engine.loading import Components, check_folder, decoder_alone, load_components  # noqa: E402
from anime_studio.engine.prepared_loading import open_form  # noqa: E402
from anime_studio.engine.preparing import prepare  # noqa: E402
from anime_studio.engine.ready import levers_for  # noqa: E402
from anime_studio.engine.shards import read_header  # noqa: E402
from anime_studio.engine.streaming import home_for  # noqa: E402
from anime_studio.engine.tiny import write_checkpoint, write_tiny_random  # noqa: E402
from anime_studio.prepared import Forms  # noqa: E402

IMPORT_S = time.perf_counter() - _BEGUN
REVISION = "random"
WARM_RUNS = 3
COLD_LIMIT_S = 20.0
"""Storage that takes longer is measured once: the other ways wait for the same bytes."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Place:
    """What is loaded, and where to.

    Attributes:
        forms: The checkpoint, and what is prepared of it.
        device: Where to.
        levers: As the engine takes them there; on a CPU those that load alike, so that every line runs.
    """

    forms: Forms
    device: torch.device
    levers: Acceleration

    @property
    def prepared(self) -> Path:
        """The form that is served here."""
        return self.forms.folder(packing_for(self.device.type, self.levers))


def recipe_for(*, cpu: bool) -> Recipe:
    """Return whose shape is loaded: Wan 2.1 1.3B's on a GPU, the tiny one's on a CPU."""
    return TINY_RANDOM if cpu else FASTWAN_3STEP


def place(models: Path, *, cpu: bool) -> Place:
    """Return what `make` writes under *models*, and where it goes."""
    recipe = recipe_for(cpu=cpu)
    device = CPU if cpu else torch.device("cuda", 0)
    levers = levers_for(recipe, device)
    if cpu:
        levers = replace(
            levers, text_weights=TextWeights.INT8, text_embedding_on_cpu=True, text_streamed=True
        )
    return Place(Forms.of(recipe, models / recipe.name / REVISION, models), device, levers)


def make(where: Place) -> Iterator[dict[str, Any]]:
    """Write the checkpoint and prepare it."""
    yield {"step": "machine", **machine_and_versions(where.device), "cpu_cores": os.cpu_count()}
    begun = time.perf_counter()
    if where.device.type == "cpu":
        write_tiny_random(where.forms.source)
    else:
        parts = narrow(full_work(where.device)).components
        write_checkpoint(where.forms.source, parts.text_encoder, parts.transformer, parts.vae)
        del parts
    yield {"step": "write a checkpoint", "seconds": time.perf_counter() - begun}
    begun = time.perf_counter()
    prepare(where.forms, packing_for(where.device.type, where.levers))
    yield {
        "step": "weights prepare",
        "seconds": time.perf_counter() - begun,
        "source_bytes": _bytes_in(where.forms.source),
        "prepared_bytes": _bytes_in(where.prepared),
    }


def plain(where: Place) -> Components:
    """The checkpoint as fetched, packed on its way to the device."""
    return load_components(where.forms.source, where.device, where.levers)


def prepared(where: Place) -> Components:
    """The serving layout."""
    return load_components(where.prepared, where.device, where.levers)


def safetensors_alone(where: Place) -> list[dict[str, torch.Tensor]]:
    """The same shards by the library's reader, file after file: tensors, no models; the table to main memory."""
    shards = sorted(where.prepared.rglob("*.safetensors"))
    table = {shard for shard in shards if "shared.weight" in read_header(shard)}
    return [load_file(shard, device=str(CPU if shard in table else where.device)) for shard in shards]


class FromMainMemory:
    """What a CPU memory snapshot leaves to do: the device's tensors, copied from main memory to new memory there.

    The embedding table and the text encoder's waiting layers stay in main memory anyway.
    """

    def __init__(self, where: Place, *, pinned: bool) -> None:
        components = prepared(where)
        models = (components.text_encoder, components.transformer, components.vae)
        tensors = [tensor.detach() for model in models for tensor in model.state_dict().values()]
        # Layers that take turns in the same place count once.
        there = {tensor.data_ptr(): tensor for tensor in tensors if tensor.device.type == where.device.type}
        pinned = pinned and where.device.type == "cuda"
        self._kept = [tensor.cpu().pin_memory() if pinned else tensor.cpu() for tensor in there.values()]

    def __call__(self, where: Place) -> list[torch.Tensor]:
        """Copy."""
        return [
            torch.empty_like(kept, device=where.device).copy_(kept, non_blocking=True) for kept in self._kept
        ]


def measure(where: Place, deadline_s: float) -> Iterator[dict[str, Any]]:
    """Time every way; one that fails or finds no time says so in its row."""
    end = time.monotonic() + deadline_s
    begun = time.perf_counter()
    torch.zeros(1, device=where.device)
    yield {"step": "process", "import_s": IMPORT_S, "device_s": time.perf_counter() - begun}
    yield {"step": "parts of a load", **_parts(where)}
    source, form = where.forms.source, where.prepared
    ways: list[tuple[str, Path | None, Callable[[], Callable[[Place], Any]]]] = [
        ("prepared layout", form, lambda: prepared),
        ("safetensors alone", form, lambda: safetensors_alone),
        ("main memory, pageable", None, lambda: FromMainMemory(where, pinned=False)),
        ("main memory, pinned", None, lambda: FromMainMemory(where, pinned=True)),
        ("plain checkpoint", source, lambda: plain),
    ]
    slow_storage = False
    for name, folder, ready in ways:
        if time.monotonic() > end:
            yield {"way": name, "error_message": f"no time was left of {deadline_s:g} s"}
            continue
        try:
            row = _time(where, None if slow_storage else folder, ready(), end)
            slow_storage = slow_storage or row.get("cold_s", 0.0) > COLD_LIMIT_S
            yield {"way": name, "bytes": _bytes_in(folder or form), **row}
        except Exception as error:  # noqa: BLE001  a row that says why beats a run that is lost
            traceback.print_exc()
            yield {"way": name, "error_message": f"{type(error).__name__}: {error}"}
        _forget()


def _time(where: Place, cold: Path | None, load: Callable[[Place], Any], end: float) -> dict[str, Any]:
    """Return the row of one way; with *cold*, first without that folder's files in the page cache."""
    row: dict[str, Any] = {}
    if cold is not None:
        _empty_page_cache(cold)
        before = _read_from_storage()
        row["cold_s"] = _once(where, load)["seconds"]
        row["cold_storage_bytes"] = None if before is None else (_read_from_storage() or 0) - before
    runs = []
    while not runs or (len(runs) < WARM_RUNS and time.monotonic() < end):
        _forget()
        runs.append(_once(where, load))
    warm = [run.pop("seconds") for run in runs]
    return row | {"warm_s": statistics.median(warm), "warm_runs_s": warm, **runs[-1]}


def _once(where: Place, load: Callable[[Place], Any]) -> dict[str, float]:
    """Return the seconds of one load, and what the device holds after it: packing there leaves holes behind it."""
    begun = time.perf_counter()
    kept = load(where)
    _wait(where)
    seconds = time.perf_counter() - begun
    if where.device.type != "cuda":
        return {"seconds": seconds}
    gc.collect()
    torch.cuda.empty_cache()
    held = {"allocated_bytes": torch.cuda.memory_allocated(), "reserved_bytes": torch.cuda.memory_reserved()}
    del kept
    return {"seconds": seconds, **held}


def _parts(where: Place) -> dict[str, float]:
    """Return seconds of what no bandwidth shortens: empty models and headers, pinned memory for layers that wait."""
    packing, begun = packing_for(where.device.type, where.levers), time.perf_counter()
    empty = check_folder(where.prepared, weights=False)
    decoder_alone(empty["vae"])
    open_form(where.prepared, empty, getattr(torch, packing.dtype), where.levers.text_weights)
    built = time.perf_counter()
    layers = empty["text_encoder"].encoder.block
    homes = [home_for(layer, locked=where.device.type == "cuda") for layer in layers]
    seconds = time.perf_counter() - built
    pinned_bytes = sum(home.nbytes for home, _ in homes)
    del homes
    _forget()
    return {"empty_models_s": built - begun, "pin_s": seconds, "pinned_bytes": pinned_bytes}


def _forget() -> None:
    """Give back what allocators keep: no run may live on the memory of the one before."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch._C._host_emptyCache()  # pinned memory; torch has no public name for it


def _wait(where: Place) -> None:
    if where.device.type == "cuda":
        torch.cuda.synchronize()


def _empty_page_cache(folder: Path) -> None:
    os.sync()  # dirty pages are not dropped
    for path in folder.rglob("*.safetensors"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _read_from_storage() -> int | None:
    """Return the bytes this process has had fetched from storage (proc(5), `io`); None where it is not told."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))
    except (OSError, StopIteration):
        return None


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


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
    where = place(asked.folder, cpu=asked.cpu or not torch.cuda.is_available())
    for row in make(where) if asked.act == "make" else measure(where, asked.deadline_s):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
