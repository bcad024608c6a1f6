"""How fast a suspended engine is ready again: the driver's process checkpoint, and loading from files beside it.

A child process loads the engine at full shape with random weights and warms it up. The driver suspends it (its
GPU memory goes to main memory) and resumes it; then the child proves itself and takes a denoise step. The table
adds what a snapshot's bytes cost to read from storage, which this benchmark does not measure.

    python benchmarks/cold_start.py [--cycles 10] [--out benchmarks/results]

Needs Linux, a CUDA device and driver 570 or later (CUDA driver API, "Checkpointing": `cuCheckpointProcess*`).
Without a CUDA device the child runs at a tiny shape on the CPU and nothing is suspended: that keeps it alive.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

STORAGE_BYTES_PER_S = (0.2e9, 3e9, 6e9)
"""Degraded download, measured restore, and a fast restore of published GPU snapshots."""
GIB = 1024**3


class Checkpoint:
    """The driver's four calls on one process."""

    def __init__(self, pid: int) -> None:
        self._driver, self._pid = ctypes.CDLL("libcuda.so.1"), pid
        self._call("cuInit", 0)

    def suspend(self) -> None:
        """Stop the process's GPU work and move its GPU memory to main memory."""
        self._call("cuCheckpointProcessLock", self._pid, None)
        self._call("cuCheckpointProcessCheckpoint", self._pid, None)

    def resume(self) -> None:
        """Move it back and let it run."""
        self._call("cuCheckpointProcessRestore", self._pid, None)
        self._call("cuCheckpointProcessUnlock", self._pid, None)

    def _call(self, name: str, *given: int | None) -> None:
        status = getattr(self._driver, name)(*given)
        if status != 0:
            raise RuntimeError(f"{name} on process {self._pid} gave CUDA error {status}")


class Child:
    """The process that holds the engine; it answers one line of JSON to each word."""

    def __init__(self, *, cpu: bool) -> None:
        command = [sys.executable, __file__, "--child", *(["--cpu"] if cpu else [])]
        # One process: a compiler worker left alive would be in the snapshot too.
        environment = os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "1"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.pid = self._process.pid
        self.ready = self._answer()

    def ask(self, word: str) -> dict[str, Any]:
        """Send *word*, wait for the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        return self._answer()

    def stop(self) -> None:
        """Close its input, at which it ends."""
        self._process.communicate(timeout=60)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return dict(json.loads(line))
        raise RuntimeError(f"the child ended with {self._process.wait()}")


def cycle(child: Child, checkpoint: Checkpoint | None) -> dict[str, float]:
    """Suspend, resume, probe, first step; seconds of each.

    Raises:
        RuntimeError: The driver refused, or the weights are not what they were.
    """
    seconds = {}
    if checkpoint is not None:
        seconds["suspend_s"] = _timed(checkpoint.suspend)
    begun = time.perf_counter()
    if checkpoint is not None:
        seconds["resume_s"] = _timed(checkpoint.resume)
    probed = child.ask("probe")
    seconds["resume_probe_s"] = time.perf_counter() - begun
    if probed["fingerprint"] != child.ready["fingerprint"]:
        raise RuntimeError("the weights changed between suspend and resume")
    return seconds | {
        "first_step_s": child.ask("step")["step_s"],
        "second_step_s": child.ask("step")["step_s"],
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median and 95th percentile; the latter is the maximum below twenty values."""
    ordered = sorted(values)
    return {
        "p50": statistics.median(ordered),
        "p95": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
    }


def readiness(ways: Mapping[str, tuple[float, float]]) -> list[dict[str, Any]]:
    """Return a row for each way to be ready: (seconds measured with its bytes in memory, bytes to read)."""
    return [
        {"way": way, "measured_s": seconds, "gib": read / GIB}
        | {f"with_storage_{speed / 1e9:g}_gb_per_s": seconds + read / speed for speed in STORAGE_BYTES_PER_S}
        for way, (seconds, read) in ways.items()
    ]


def main() -> None:
    """Run and print; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cycles", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--cpu", action="store_true", help="the tiny shape, even where there is a GPU")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        serve(cpu=asked.cpu)
        return
    child = Child(cpu=asked.cpu)
    cuda = child.ready["device"] != "cpu"
    try:
        checkpoint = Checkpoint(child.pid) if cuda else None
        cycles = [cycle(child, checkpoint) for _ in range(asked.cycles)]
        files = child.ask("files")
    finally:
        child.stop()
    times = {name: spread([one[name] for one in cycles]) for name in cycles[0]}
    resident = child.ready["gpu_bytes"]
    result = {
        **child.ready,
        "gpu_gib": resident / GIB,
        "cycles": asked.cycles,
        **times,
        "readiness": readiness(
            {
                "resume a snapshot": (times["resume_probe_s"]["p50"], resident),
                "safetensors to the device": (files["warm_s"], files["bytes"]),
            }
        ),
    }
    if cuda:  # a tiny shape's times are no result
        asked.out.mkdir(parents=True, exist_ok=True)
        path = asked.out / f"cold_start_{child.ready['device'].split()[-1].lower()}.json"
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


def serve(*, cpu: bool) -> None:
    """Be the child: load, warm up, answer."""
    import torch
    from engine_parts import Ours, full_work, narrow, tiny_work

    from anime_studio.engine.acceleration import acceleration_for
    from anime_studio.engine.engine import Engine
    from anime_studio.engine.loading import place_text_encoder
    from anime_studio.engine.probe import check_device, fingerprint

    cuda = torch.cuda.is_available() and not cpu
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        work = narrow(full_work(torch.device("cuda", 0))) if cuda else tiny_work(Path(folder))
        parts = work.components
        levers = acceleration_for(parts.device)
        place_text_encoder(parts.text_encoder, parts.device, levers)
        engine = Engine(parts, work.recipe, revision="random", acceleration=levers)
        engine.warm_up()
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        _say(
            device=torch.cuda.get_device_name() if cuda else "cpu",
            torch=torch.__version__,
            build_and_warm_up_s=time.perf_counter() - begun,
            gpu_bytes=torch.cuda.memory_reserved() if cuda else 0,
            fingerprint=fingerprint(parts),
        )
        with torch.inference_mode():
            step = Ours(engine).forward(work.latents(), work.embeddings())
            for line in sys.stdin:
                if line.strip() == "probe":
                    check_device(parts.device)
                    _say(fingerprint=fingerprint(parts))
                elif line.strip() == "step":
                    _say(step_s=_timed(lambda: step().sum().item()))
                elif line.strip() == "files":
                    _say(**_through_files(parts, Path(folder)))


def _through_files(parts: Any, folder: Path) -> dict[str, float]:
    """Write the engine's weights as safetensors, and time reading them to the device from the page cache."""
    import torch
    from safetensors.torch import load_file, save_file

    here = parts.device
    weights = {
        "text": (here, parts.text_encoder.state_dict()),
        "transformer": (here, parts.transformer.state_dict()),
        "vae": (here, parts.vae.state_dict()),
        "table": (torch.device("cpu"), {"weight": parts.text_encoder.shared.weight}),
    }
    for name, (_, tensors) in weights.items():
        own = {key: value.detach().clone().contiguous().cpu() for key, value in tensors.items()}
        save_file(own, folder / f"{name}.safetensors")

    def load() -> None:
        kept = [
            load_file(folder / f"{name}.safetensors", device=str(place))
            for name, (place, _) in weights.items()
        ]
        if parts.device.type == "cuda":
            torch.cuda.synchronize()
        del kept

    return {
        "warm_s": statistics.median(_timed(load) for _ in range(3)),
        "bytes": sum((folder / f"{name}.safetensors").stat().st_size for name in weights),
    }


def _timed(act: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun


def _say(**answer: Any) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
