"""The process that `cold_start.py` suspends: it holds the engine and answers one line of JSON to each word.

    python benchmarks/cold_start_child.py FOLDER [--cpu]      FOLDER as `loading_ways.py make` leaves it

`rest`: have the weights wait in main memory, as before a snapshot. `wake`: bring them back, multiply, and hash a sample
of them, as after one. `step`: one denoise step, timed. `clip`: prompt to MP4, timed. It ends with its input.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from cold_start import timed
from engine_parts import FULL_DURATION_S, TINY_DURATION_S, Ours, Work
from loading_ways import place, recipe_for

from anime_studio.engine.engine import load_engine
from anime_studio.engine.probe import check_device, fingerprint


def main() -> None:
    """Load as a start does, warm up, answer."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cpu", action="store_true")
    asked = parser.parse_args()
    cpu = asked.cpu or not torch.cuda.is_available()
    recipe, where = recipe_for(cpu=cpu), place(asked.folder, cpu=cpu)
    begun = time.perf_counter()
    engine = load_engine(
        recipe,
        where.forms.source,
        device=where.device.type,
        acceleration=where.levers,
        models_dir=asked.folder,
    )
    loaded = time.perf_counter()
    engine.warm_up()
    warm = time.perf_counter()
    parts = engine.components
    saved = fingerprint(parts)
    weights_bytes = 0 if cpu else torch.cuda.memory_allocated()
    engine.rest()
    _say(
        load_s=loaded - begun,
        warm_up_s=warm - loaded,
        rest_s=time.perf_counter() - warm,
        gpu_weights_bytes=weights_bytes,
        gpu_bytes=0 if cpu else torch.cuda.memory_reserved(),
        main_memory_bytes=_memory_of_its_own("RssAnon"),
        main_memory_peak_bytes=_memory_of_its_own("VmHWM"),
        fingerprint=saved,
    )
    work = Work(recipe, parts, TINY_DURATION_S if cpu else FULL_DURATION_S)
    ours = Ours(engine)
    for line in sys.stdin:
        word = line.strip()
        if word == "rest":
            engine.rest()
            _say()
        elif word == "wake":
            check_device(parts.device)
            engine.wake()
            _say(fingerprint=fingerprint(parts))
        elif word == "step":
            with torch.inference_mode():
                step = ours.forward(work.latents(), work.embeddings())
                _say(seconds=timed(lambda: step().sum().item()))  # noqa: B023  it runs at once
                del step  # and the text's keys and values, which would be on the GPU at the next suspend
        elif word == "clip":
            spec = work.spec()
            _say(seconds=timed(lambda: ours.render(spec)))  # noqa: B023


def _memory_of_its_own(kind: str) -> int:
    """Return bytes of main memory: `RssAnon`, what is in no file and goes into a snapshot; `VmHWM`, the most of all."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    kib = next(line.split()[1] for line in lines if line.startswith(f"{kind}:"))
    return int(kib) * 1024


def _say(**answer: Any) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
