"""The process that `cold_start` suspends: it holds a GPU container's engine and answers each word with a line of JSON.

The text comes from elsewhere, as in that container (ADR 22); here it is random numbers that are there at once.

    python -m benchmarks.startup.snapshot_child FOLDER [--cpu]      FOLDER as `loading_ways make` leaves it

`sleep`: offload the weights to host memory, as before a snapshot. `wake_up`: copy them back, multiply, and hash a sample of
them, as after one. `step`: one denoise step, timed. `clip`: prompt to MP4, timed. The process ends with its input.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from anime_studio.engine.device_check import check_device, fingerprint
from anime_studio.engine.startup import load_engine, warm_up
from anime_studio.engine.text import EncodedText
from benchmarks.engine.sides import FULL_DURATION_S, TINY_DURATION_S, Ours, Work
from benchmarks.startup.cold_start import timed
from benchmarks.startup.loading_ways import recipe_for, target_in
from common.schemas import ClipSpec


def main() -> None:
    """Load as a start does, warm up, then answer."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cpu", action="store_true")
    asked = parser.parse_args()
    cpu = asked.cpu or not torch.cuda.is_available()
    recipe, target = recipe_for(cpu=cpu), target_in(asked.folder, cpu=cpu)
    begun = time.perf_counter()
    text = RandomText()
    engine = load_engine(recipe, target.checkpoint, target.device, acceleration=target.options, text=text)
    loaded = time.perf_counter()
    warm_up(engine)
    warm = time.perf_counter()
    parts = engine.components
    saved = fingerprint(parts)
    weights_bytes = 0 if cpu else torch.cuda.memory_allocated()
    engine.sleep()
    _answer(
        load_s=loaded - begun,
        warm_up_s=warm - loaded,
        sleep_s=time.perf_counter() - warm,
        gpu_weights_bytes=weights_bytes,
        gpu_bytes=0 if cpu else torch.cuda.memory_reserved(),
        host_memory_bytes=own_memory("RssAnon"),
        host_memory_peak_bytes=own_memory("VmHWM"),
        fingerprint=saved,
    )
    work = Work(recipe, parts, TINY_DURATION_S if cpu else FULL_DURATION_S)
    text.work = work
    ours = Ours(engine)
    for line in sys.stdin:
        word = line.strip()
        if word == "sleep":
            engine.sleep()
            _answer()
        elif word == "wake_up":
            check_device(parts.device)
            engine.wake_up()
            _answer(fingerprint=fingerprint(parts))
        elif word == "step":
            with torch.inference_mode():
                step = ours.forward(work.latents(), work.embeddings())
                _answer(seconds=timed(lambda: step().sum().item()))  # noqa: B023  it runs at once
                del step  # frees the text's keys and values before the next suspend
        elif word == "clip":
            spec = work.spec()
            _answer(seconds=timed(lambda: ours.render(spec)))  # noqa: B023


class RandomText:
    """Embeddings of full length, without an encoder."""

    work: Work

    def text_of(self, spec: ClipSpec, waiting: object = None) -> EncodedText:  # noqa: ARG002
        """Return them."""
        embeddings = self.work.embeddings()
        return EncodedText(embeddings, None, embeddings.shape[1])


def own_memory(kind: str) -> int:
    """Return bytes of host memory (proc(5)): `RssAnon` is in no file and goes into a snapshot; `VmHWM` is the peak."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    kib = next(line.split()[1] for line in lines if line.startswith(f"{kind}:"))
    return int(kib) * 1024


def _answer(**values: Any) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main()
