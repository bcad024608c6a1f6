"""How soon an engine is ready: from a process suspended and resumed by the driver, and in every other way.

1. `loading_ways make` writes a checkpoint with random weights at full shape and prepares it.
2. `snapshot_child` holds the loaded, warm engine. It sleeps, is suspended (the driver moves its GPU memory to host
   memory) and resumed. Then it wakes up, checks its weights and runs denoise steps or generates clips.
3. `starts` starts an engine without a snapshot and from host memory, with the kernels that step 2 compiled in torch's cache,
   and the text encoder on a CPU; it times whole clips with the text on the CPU and on the GPU.
4. `text_error` holds the text encoder to float32.
5. `loading_ways measure` times every way from files or host memory to the device.
6. `queue_of_ten` draws ten clips, each next text encoded on the CPU meanwhile.

The table adds the time to read each way's bytes from storage.

    python -m benchmarks.startup.cold_start [--cycles 10] [--deadline-s 400] [--scratch FOLDER] [--out FOLDER]

Needs Linux, a CUDA device and driver 570 or later (CUDA driver API, "Checkpointing": `cuCheckpointProcess*`), 25 GB of
scratch disk and 48 GiB of memory. Without a CUDA device everything runs at a tiny shape on the CPU and nothing is
suspended, which only shows that the benchmark runs. A step that fails leaves an error in the result, and the result file
is written after each step.
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

from benchmarks import RESULTS, ROOT, card_in

STORAGE_BYTES_PER_S = (0.2e9, 3e9, 6e9)
"""A slow download, a measured restore, and a fast restore of published GPU snapshots."""
GIB = 1024**3
WORKS = ("step", "clip")
"""What follows a resume, twice: the first time must not be slower than the second. Cycles alternate between them."""
SNAPSHOT_SHARE = 0.7
"""After this share of the time no further cycle begins."""
RESERVE_S = 25
"""For imports, and for the load that is running when the time is over."""
QUEUE_S = 110
"""What the queue of ten is expected to take on an H100; with less time left it is not begun."""


class DriverCheckpoint:
    """The driver's four calls on one process."""

    def __init__(self, pid: int) -> None:
        self._driver, self._pid = ctypes.CDLL("libcuda.so.1"), pid
        self._call("cuInit", 0)

    def suspend(self) -> None:
        """Stop the process's GPU work and move its GPU memory to host memory."""
        self._call("cuCheckpointProcessLock", self._pid, None)
        self._call("cuCheckpointProcessCheckpoint", self._pid, None)

    def resume(self) -> None:
        """Move the memory back and let the process run."""
        self._call("cuCheckpointProcessRestore", self._pid, None)
        self._call("cuCheckpointProcessUnlock", self._pid, None)

    def _call(self, name: str, *given: int | None) -> None:
        status = getattr(self._driver, name)(*given)
        if status != 0:
            raise RuntimeError(f"{name} on process {self._pid} gave CUDA error {status}")


class Child:
    """The process that holds the engine; it answers each word with a line of JSON."""

    def __init__(self, models: Path, *, cpu: bool) -> None:
        # No compiler workers: they would be in the snapshot too.
        environment = os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "1"}
        self._process = subprocess.Popen(
            _command("snapshot_child", str(models), cpu=cpu),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=ROOT,
        )
        self.pid = self._process.pid
        self.ready = self._answer()

    def ask(self, word: str) -> dict[str, Any]:
        """Send *word* and return the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        return self._answer()

    def stop(self) -> None:
        """Close its input, which ends it."""
        self._process.communicate(timeout=60)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return dict(json.loads(line))
        raise RuntimeError(f"the child ended with {self._process.wait()}")


def cycle(child: Child, checkpoint: DriverCheckpoint | None, work: str) -> dict[str, float]:
    """Sleep, suspend, resume, wake up and check, then do *work* (`step` or `clip`) twice; return the seconds of each.

    Raises:
        RuntimeError: The driver refused, or the weights changed.
    """
    seconds = {}
    child.ask("sleep")
    if checkpoint is not None:
        seconds["suspend_s"] = timed(checkpoint.suspend)
    begun = time.perf_counter()
    if checkpoint is not None:
        seconds["resume_s"] = timed(checkpoint.resume)
    awake = child.ask("wake_up")
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


def headlines(result: dict[str, Any]) -> dict[str, Any]:
    """Return what a reader asks first, of what *result* holds so far.

    `readiness_s` has seconds until a GPU container can draw, by kind of start and, where bytes are read from storage, by its
    GB/s; `text` the text container's seconds by number of tokens, its errors and memory; `clip_s` prompt to MP4, of a job
    alone by where its text is encoded, and of a clip in a queue of ten.
    """
    found: dict[str, Any] = {}
    starts = {row["start"]: row for row in result["starts"]}
    ready: dict[str, Any] = {}
    if "resume_probe_s" in result:
        ready["gpu"] = _by_storage(result["resume_probe_s"]["p50"], result["snapshot_bytes"])
    if "cpu" in starts:
        ready["cpu"] = _by_storage(starts["cpu"]["memory_back_to_step_s"], starts["cpu"]["host_memory_bytes"])
    if "plain" in starts:
        ready["plain"] = starts["plain"]["total_s"]
        found["gpu_peak_bytes"] = starts["plain"].get("gpu_peak_bytes")
    text = {**starts.get("text", {}), **result.get("text_error", {})}
    clip = {**starts.get("clip", {}), **{name: result[name] for name in ("queue_of_ten",) if name in result}}
    return found | {
        "readiness_s": ready,
        "text": {key: value for key, value in text.items() if key != "start"},
        "clip_s": {key: value for key, value in clip.items() if key != "start"},
    }


def _by_storage(seconds: float, read: int) -> dict[str, float]:
    return {f"{speed / 1e9:g}": seconds + read / speed for speed in STORAGE_BYTES_PER_S}


class Report:
    """The result so far, on the disk after each step."""

    def __init__(self, out: Path | None) -> None:
        self._out = out
        self.result: dict[str, Any] = {"making": [], "starts": [], "loading": []}

    def add(self, **values: Any) -> None:
        """Add *values* to the result and write it; times at a tiny shape are no result and are not written."""
        self.result |= values
        self.result["readiness"] = readiness(self._ways())
        self.result |= headlines(self.result)
        if self._out is not None and self.on_gpu:
            self._out.mkdir(parents=True, exist_ok=True)
            path = self._out / f"cold_start_{card_in(self.result)}.json"
            path.write_text(json.dumps(self.result, indent=2) + "\n", encoding="utf-8")

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.result.get("capability") is not None

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Put an error into the result instead of raising it."""
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            yield
        except Exception as error:  # noqa: BLE001  the other steps may succeed
            self.add(**{f"{name.replace(' ', '_')}_error_message": f"{type(error).__name__}: {error}"})

    def _ways(self) -> list[tuple[str, float, int]]:
        rows = [row for row in self.result["loading"] if "warm_s" in row]
        ways = [(row["way"], row["warm_s"], row["bytes"]) for row in rows]
        if "resume_probe_s" in self.result:
            resumed = (self.result["resume_probe_s"]["p50"], self.result["snapshot_bytes"])
            ways.insert(0, ("resume a snapshot", *resumed))
        return ways


def make(report: Report, models: Path, *, cpu: bool, commit: str) -> None:
    """Write and prepare a checkpoint in another process. Its first line names the machine; *commit* replaces its commit."""
    for row in _lines("make", str(models), cpu=cpu):
        if row["step"] == "machine":
            del row["step"]
            report.add(**row | ({"commit": commit} if commit else {}))
        else:
            report.add(making=[*report.result["making"], row])


def measure_starts(report: Report, models: Path, *, cpu: bool, end: float) -> None:
    """Time each start in a process of its own, as long as there is time."""
    for kind in ("cpu", "plain", "text", "clip"):
        if time.monotonic() > end:
            report.add(**{f"start_{kind}_error_message": "no time was left"})
            continue
        with report.step(f"start {kind}"):
            for row in _lines(kind, str(models), cpu=cpu, module="starts"):
                report.add(starts=[*report.result["starts"], row])


def measure_text_error(report: Report, *, cpu: bool) -> None:
    """Hold the text encoder to float32 in another process."""
    for row in _lines(cpu=cpu, module="text_error"):
        report.add(text_error=row)


def measure_loading(report: Report, models: Path, *, cpu: bool, deadline_s: float) -> None:
    """Time every way in another process; each row is added as it comes."""
    for row in _lines("measure", str(models), "--deadline-s", f"{deadline_s:.0f}", cpu=cpu):
        report.add(loading=[*report.result["loading"], row])


def measure_queue(report: Report, *, cpu: bool, end: float) -> None:
    """Draw a queue of ten in another process, if there is time."""
    if time.monotonic() > end:
        report.add(queue_of_ten_error_message="no time was left")
        return
    for row in _lines(cpu=cpu, module="queue_of_ten"):
        report.add(queue_of_ten=row)


def measure_snapshot(report: Report, models: Path, *, cpu: bool, cycles: int, end: float) -> None:
    """Suspend and resume a child that holds the engine, as often as there is time for."""
    child = Child(models, cpu=cpu)
    try:
        saved_bytes = child.ready["gpu_bytes"] + child.ready["host_memory_bytes"]
        report.add(**child.ready, gpu_gib=child.ready["gpu_bytes"] / GIB, snapshot_bytes=saved_bytes)
        checkpoint = DriverCheckpoint(child.pid) if report.on_gpu else None
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
    parser.add_argument("--deadline-s", type=float, default=400)
    parser.add_argument("--scratch", type=Path, help="where the checkpoint is written; default: the system's")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--cpu", action="store_true", help="the tiny shape, even where there is a GPU")
    parser.add_argument("--commit", default="", help="where the folder is no repository")
    asked = parser.parse_args()
    begun = time.monotonic()
    report = Report(asked.out)
    with tempfile.TemporaryDirectory(dir=asked.scratch) as folder:
        models = Path(folder).resolve()
        with report.step("making"):
            make(report, models, cpu=asked.cpu, commit=asked.commit)
        with report.step("snapshot"):
            end = begun + SNAPSHOT_SHARE * asked.deadline_s
            measure_snapshot(report, models, cpu=asked.cpu, cycles=asked.cycles, end=end)
        measure_starts(report, models, cpu=asked.cpu, end=begun + asked.deadline_s)
        with report.step("text error"):
            measure_text_error(report, cpu=asked.cpu)
        with report.step("loading"):
            left = asked.deadline_s - QUEUE_S - (time.monotonic() - begun)
            measure_loading(report, models, cpu=asked.cpu, deadline_s=max(0.0, left - RESERVE_S))
        with report.step("queue of ten"):
            measure_queue(report, cpu=asked.cpu, end=begun + asked.deadline_s - QUEUE_S)
    report.add(total_s=time.monotonic() - begun)
    print(json.dumps(report.result, indent=2))


def _lines(*given: str, cpu: bool, module: str = "loading_ways") -> Iterator[dict[str, Any]]:
    """Yield the lines of *module*."""
    process = subprocess.Popen(_command(module, *given, cpu=cpu), stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            yield json.loads(line)
    if process.wait() != 0:
        raise RuntimeError(f"{' '.join((module, *given[:1]))} ended with {process.returncode}")


def _command(module: str, *given: str, cpu: bool) -> list[str]:
    return [sys.executable, "-m", f"benchmarks.startup.{module}", *given, *(["--cpu"] if cpu else [])]


def timed(act: Callable[[], Any]) -> float:
    """Return the seconds that *act* takes."""
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
