"""How fast an engine is ready: a process suspended and resumed by the driver, and every other way beside it.

A checkpoint with random weights at full shape is written and prepared (`loading_ways.py make`), every way from files or
main memory to the device is timed (`loading_ways.py measure`), and a process that holds the loaded, warm engine
(`cold_start_child.py`) rests, is suspended, which moves its GPU memory to main memory, and resumed; then it wakes, proves
itself and takes denoise steps or draws clips. The table adds what each way's bytes cost to read from storage.

    python benchmarks/cold_start.py [--cycles 10] [--deadline-s 290] [--scratch FOLDER] [--out benchmarks/results]

Needs Linux, a CUDA device and driver 570 or later (CUDA driver API, "Checkpointing": `cuCheckpointProcess*`), 25 GB of
scratch disk and 48 GiB of memory. Without a CUDA device everything runs at a tiny shape on the CPU, and nothing is
suspended: that keeps it alive. What fails says so in its place, and the result file is written after each step.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STORAGE_BYTES_PER_S = (0.2e9, 3e9, 6e9)
"""Degraded download, measured restore, and a fast restore of published GPU snapshots."""
GIB = 1024**3
WORKS = ("step", "clip")
"""What is done twice after a resume, in turns: the first time must not be slower than the second."""
SNAPSHOT_SHARE = 0.7
"""Of the time, after which no further cycle begins."""
RESERVE_S = 25
"""For the load that is under way when the time is over, and for imports."""


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

    def __init__(self, models: Path, *, cpu: bool) -> None:
        # One process: a compiler worker left alive would be in the snapshot too.
        environment = os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "1"}
        self._process = subprocess.Popen(
            _command("cold_start_child.py", str(models), cpu=cpu),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
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


def cycle(child: Child, checkpoint: Checkpoint | None, work: str) -> dict[str, float]:
    """Rest, suspend, resume, wake and probe, then *work* twice, a `step` or a `clip`; seconds of each.

    Raises:
        RuntimeError: The driver refused, or the weights are not what they were.
    """
    seconds = {}
    child.ask("rest")
    if checkpoint is not None:
        seconds["suspend_s"] = timed(checkpoint.suspend)
    begun = time.perf_counter()
    if checkpoint is not None:
        seconds["resume_s"] = timed(checkpoint.resume)
    awake = child.ask("wake")
    seconds["resume_probe_s"] = time.perf_counter() - begun
    if awake["fingerprint"] != child.ready["fingerprint"]:
        raise RuntimeError("the weights changed between suspend and resume")
    return seconds | {f"{turn}_{work}_s": child.ask(work)["seconds"] for turn in ("first", "second")}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median and 95th percentile; the latter is the maximum below twenty values."""
    ordered = sorted(values)
    return {
        "p50": statistics.median(ordered),
        "p95": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
    }


def readiness(ways: Sequence[tuple[str, float, int]]) -> list[dict[str, Any]]:
    """Return a row for each way to be ready: (name, seconds with its bytes in memory, bytes to read)."""
    return [
        {"way": way, "measured_s": seconds, "gib": read / GIB}
        | {f"with_storage_{speed / 1e9:g}_gb_per_s": seconds + read / speed for speed in STORAGE_BYTES_PER_S}
        for way, seconds, read in ways
    ]


class Report:
    """The result so far, on the disk after each step."""

    def __init__(self, out: Path | None) -> None:
        self._out = out
        self.result: dict[str, Any] = {"making": [], "loading": []}

    def add(self, **news: Any) -> None:
        """Keep *news*; a tiny shape's times are no result and are not written."""
        self.result |= news
        self.result["readiness"] = readiness(self._ways())
        if self._out is not None and self.on_gpu:
            self._out.mkdir(parents=True, exist_ok=True)
            path = self._out / f"cold_start_{self.result['device'].split()[-1].lower()}.json"
            path.write_text(json.dumps(self.result, indent=2) + "\n", encoding="utf-8")

    @property
    def on_gpu(self) -> bool:
        """Whether there is something to suspend."""
        return self.result.get("capability") is not None

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Say in the result what failed, and go on."""
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            yield
        except Exception as error:  # noqa: BLE001  whatever it is, the other steps' results are kept
            self.add(**{f"{name.replace(' ', '_')}_error_message": f"{type(error).__name__}: {error}"})

    def _ways(self) -> list[tuple[str, float, int]]:
        rows = [row for row in self.result["loading"] if "warm_s" in row]
        ways = [(row["way"], row["warm_s"], row["bytes"]) for row in rows]
        if "resume_probe_s" in self.result:
            saved_bytes = self.result["gpu_bytes"] + self.result["main_memory_bytes"]
            ways.insert(0, ("resume a snapshot", self.result["resume_probe_s"]["p50"], saved_bytes))
        return ways


def make(report: Report, models: Path, *, cpu: bool, commit: str) -> None:
    """Have a checkpoint written and prepared; the first line names the machine, and *commit* where it cannot."""
    for row in _lines("make", str(models), cpu=cpu):
        if row["step"] == "machine":
            del row["step"]
            report.add(**row | ({"commit": commit} if commit else {}))
        else:
            report.add(making=[*report.result["making"], row])


def measure_loading(report: Report, models: Path, *, cpu: bool, deadline_s: float) -> None:
    """Have every way timed; rows are kept as they come."""
    for row in _lines("measure", str(models), "--deadline-s", f"{deadline_s:.0f}", cpu=cpu):
        report.add(loading=[*report.result["loading"], row])


def measure_snapshot(report: Report, models: Path, *, cpu: bool, cycles: int, end: float) -> None:
    """Suspend and resume a child that holds the engine, as often as there is time for."""
    child = Child(models, cpu=cpu)
    try:
        report.add(**child.ready, gpu_gib=child.ready["gpu_bytes"] / GIB)
        checkpoint = Checkpoint(child.pid) if report.on_gpu else None
        done: list[dict[str, float]] = []
        while len(done) < cycles and (time.monotonic() < end or not done):
            done.append(cycle(child, checkpoint, WORKS[len(done) % len(WORKS)]))
            names = {name for one in done for name in one}
            report.add(
                cycles=len(done),
                **{name: spread([one[name] for one in done if name in one]) for name in sorted(names)},
            )
    finally:
        child.stop()


def main() -> None:
    """Run and print; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cycles", type=int, default=10)
    parser.add_argument("--deadline-s", type=float, default=290)
    parser.add_argument("--scratch", type=Path, help="where the checkpoint is written; default: the system's")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--cpu", action="store_true", help="the tiny shape, even where there is a GPU")
    parser.add_argument("--commit", default="", help="where the folder is no repository")
    asked = parser.parse_args()
    begun = time.monotonic()
    report = Report(asked.out)
    with tempfile.TemporaryDirectory(dir=asked.scratch) as folder:
        models = Path(folder)
        with report.step("making"):
            make(report, models, cpu=asked.cpu, commit=asked.commit)
        with report.step("snapshot"):
            end = begun + SNAPSHOT_SHARE * asked.deadline_s
            measure_snapshot(report, models, cpu=asked.cpu, cycles=asked.cycles, end=end)
        with report.step("loading"):
            left = asked.deadline_s - (time.monotonic() - begun)
            measure_loading(report, models, cpu=asked.cpu, deadline_s=max(0.0, left - RESERVE_S))
    report.add(total_s=time.monotonic() - begun)
    print(json.dumps(report.result, indent=2))


def _lines(act: str, *given: str, cpu: bool) -> Iterator[dict[str, Any]]:
    """Yield what `loading_ways.py` says, line by line."""
    process = subprocess.Popen(
        _command("loading_ways.py", act, *given, cpu=cpu), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            yield json.loads(line)
    if process.wait() != 0:
        raise RuntimeError(f"loading_ways.py {act} ended with {process.returncode}")


def _command(script: str, *given: str, cpu: bool) -> list[str]:
    return [sys.executable, str(Path(__file__).with_name(script)), *given, *(["--cpu"] if cpu else [])]


def timed(act: Callable[[], Any]) -> float:
    """Return the seconds that *act* takes."""
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
