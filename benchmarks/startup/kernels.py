"""What warming up costs: with nothing compiled, and in a fresh process with the kernels that the first one kept.

Each start is a process of its own, and its compilers begin with a folder that is not there, as in a container. `cold` compiles
and keeps (`engine.kernel_cache`). `kept` unpacks that first and warms up every shape, as before a snapshot; for the recipe
that is measured that is one shape. `kept, compilers imported` imports torch's compiler before the clock of the warm-up
begins, as `SNAPSHOT=cpu` does before its snapshot. Of each start: seconds to import, unpack, load, warm up, and warm up again,
which is what the device computes without any compiling; graphs found and compiled; seconds by part of torch's compiler.

    python -m benchmarks.startup.kernels [--runs 3] [--scratch FOLDER] [--out benchmarks/results] [--commit COMMIT] [--cpu]

Needs a CUDA device and 10 GB of scratch disk. Without a device it runs at a tiny shape and writes no result.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import RESULTS, ROOT, card_in

MACHINE = ("device", "capability", "date", "commit", "versions", "cpu_cores")
KINDS = ("cold", "kept", "kept, compilers imported")


def start(kind: str, models: Path, local: Path, *, cpu: bool) -> dict[str, Any]:
    """Start an engine in this process as *kind* says, and keep its kernels if it is the first."""
    begun = time.perf_counter()
    import torch

    from anime_studio.core.decoders import Decoder
    from anime_studio.engine.kernel_cache import KernelCache, made_for
    from anime_studio.engine.startup import check_parts, import_compiler, load_engine, warm_up
    from benchmarks.startup.cold_start import timed
    from benchmarks.startup.loading_ways import recipe_for, target_in
    from benchmarks.startup.snapshot_child import RandomText

    recipe, target = recipe_for(cpu=cpu), target_in(models, cpu=cpu)
    row: dict[str, Any] = {"start": kind, "import_s": time.perf_counter() - begun}
    cache = KernelCache(models / "kernels", local, made_for(recipe, Decoder.FULL, target.device))
    row["unpack_s"] = timed(cache.restore)
    begun = time.perf_counter()
    engine = load_engine(
        recipe, target.checkpoint, target.device, acceleration=target.options, text=RandomText()
    )
    check_parts(engine)
    row["load_s"] = time.perf_counter() - begun
    if kind == KINDS[2]:
        row["import_compiler_s"] = timed(import_compiler)

    def warm() -> None:
        warm_up(engine)
        if not cpu:
            torch.cuda.synchronize()

    row["warm_up_s"] = timed(warm)
    row["warm_again_s"] = timed(warm)
    row |= _compiled()
    if kind == KINDS[0] and (content := cache.pack()) is not None:
        cache.file.parent.mkdir(parents=True, exist_ok=True)
        cache.file.write_bytes(content)
        row["kept_bytes"] = len(content)
    return row


def _compiled() -> dict[str, Any]:
    from torch._dynamo.utils import calculate_time_spent, counters

    graphs = dict(counters["inductor"])
    return {
        "graphs_found": graphs.get("fxgraph_cache_hit", 0),
        "graphs_compiled": graphs.get("fxgraph_cache_miss", 0),
        "graphs_traced": counters["stats"]["unique_graphs"],
        "compiler_s": {name: round(seconds, 3) for name, seconds in calculate_time_spent().items()},
    }


def measure(models: Path, *, runs: int, cpu: bool) -> list[dict[str, Any]]:
    """Run the cold start once and each other one *runs* times, each in a new process."""
    rows = []
    for number, kind in enumerate([KINDS[0], *KINDS[1:] * runs]):
        local = models / f"local-{number}"
        row = _child(kind, models, local, cpu=cpu)
        print(json.dumps(row), flush=True)
        rows.append(row)
    return rows


def _child(kind: str, models: Path, local: Path, *, cpu: bool) -> dict[str, Any]:
    # The variables before torch is imported, and no compiler processes, as in the GPU image.
    folders = {"TORCHINDUCTOR_CACHE_DIR": local / "inductor", "TRITON_CACHE_DIR": local / "triton"}
    environment = os.environ | {name: str(path) for name, path in folders.items()}
    environment["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    command = [sys.executable, "-m", "benchmarks.startup.kernels", "--start", kind, "--models", str(models)]
    command += ["--local", str(local), *(["--cpu"] if cpu else [])]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{"))))


def main() -> None:
    """Run and print; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--scratch", type=Path, help="where the checkpoint is written; default: the system's")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--commit", default="", help="where the folder is no repository")
    parser.add_argument("--cpu", action="store_true", help="the tiny shape, even where there is a GPU")
    parser.add_argument("--start", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--models", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--local", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.start:
        print(json.dumps(start(asked.start, asked.models, asked.local, cpu=asked.cpu)))
        return
    from benchmarks.startup.cold_start import Report, make

    report = Report(None)
    with tempfile.TemporaryDirectory(dir=asked.scratch) as folder:
        models = Path(folder).resolve()
        make(report, models, cpu=asked.cpu, commit=asked.commit)
        machine = {name: report.result[name] for name in MACHINE}
        result = {**machine, "starts": measure(models, runs=asked.runs, cpu=asked.cpu)}
    if not asked.cpu and result.get("capability") is not None:
        path = asked.out / f"kernels_{card_in(result)}.json"
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
