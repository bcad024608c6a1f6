"""One start of a container, timed from its first import, in a process of its own; `cold_start` runs each.

`plain` starts without a snapshot: the engine is loaded from prepared weights. `cpu` is `SNAPSHOT=cpu`: the weights are in
host memory first, and "memory is back" is the moment after that. Both warm up and draw one denoise step. `text` starts the
text container's encoder and times prompts of 32, 64 and 128 tokens. `clip` times prompt to MP4, one job alone, a new prompt
of 32 tokens each time, with the text encoder in the same process: on the CPU and all its cores, then on the GPU.

    python -m benchmarks.startup.starts plain|cpu|text|clip FOLDER [--cpu]     FOLDER as `loading_ways make` leaves it
"""

from __future__ import annotations

import time

_BEGUN = time.perf_counter()

import argparse  # noqa: E402
import json  # noqa: E402
import statistics  # noqa: E402
from functools import partial  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402

from anime_studio.engine.startup import load_weights, start_engine, start_text_encoder  # noqa: E402
from benchmarks.engine.sides import FULL_DURATION_S, TINY_DURATION_S, Ours, Work  # noqa: E402
from benchmarks.startup.cold_start import timed  # noqa: E402
from benchmarks.startup.loading_ways import recipe_for, target_in  # noqa: E402
from benchmarks.startup.snapshot_child import RandomText, own_memory  # noqa: E402

TEXT_THREADS = 4
TEXT_TOKENS = (32, 64, 128)
TEXT_RUNS = 5
CLIP_TOKENS = 32
CLIP_RUNS = 5


def start(folder: Path, *, kind: str, cpu: bool) -> dict[str, Any]:
    """Start an engine as *kind* says and draw one denoise step; return the seconds of each part."""
    recipe, target = recipe_for(cpu=cpu), target_in(folder, cpu=cpu)
    result = {"start": kind, "import_s": time.perf_counter() - _BEGUN}
    weights = load_weights(target.checkpoint, for_gpu=not cpu) if kind == "cpu" else None
    if kind == "cpu":
        result["host_memory_bytes"] = own_memory("RssAnon")
    back, text = time.perf_counter(), RandomText()
    engine = start_engine(recipe, target.checkpoint, device=target.device.type, text=text, weights=weights)
    result["engine_s"] = time.perf_counter() - back
    text.work = Work(recipe, engine.components, TINY_DURATION_S if cpu else FULL_DURATION_S)
    with torch.inference_mode():
        step = Ours(engine).forward(text.work.latents(), text.work.embeddings())
        result["first_step_s"] = timed(lambda: step().sum().item())
    ended = time.perf_counter()
    peak = {} if cpu else {"gpu_peak_bytes": torch.cuda.max_memory_allocated()}
    return result | {"memory_back_to_step_s": ended - back, "total_s": ended - _BEGUN} | peak


def text(folder: Path, *, cpu: bool) -> dict[str, Any]:
    """Start the text encoder and time prompts by their number of tokens."""
    recipe, target = recipe_for(cpu=cpu), target_in(folder, cpu=cpu)
    torch.set_num_threads(TEXT_THREADS)
    begun = time.perf_counter()
    encoder = start_text_encoder(recipe, target.checkpoint, for_gpu=not cpu)
    result = {"start": "text", "load_s": time.perf_counter() - begun, "snapshot_bytes": own_memory("RssAnon")}
    with torch.inference_mode():
        for tokens in TEXT_TOKENS:
            words = "a " * (tokens - 1)  # the end token is the last
            runs = [timed(lambda: encoder.compute(words)) for _ in range(TEXT_RUNS)]  # noqa: B023
            result[str(tokens)] = statistics.median(runs)
    return result | {"threads": torch.get_num_threads()}


def clip(folder: Path, *, cpu: bool) -> dict[str, Any]:
    """Time prompt to MP4, warm, one job alone, with the text encoder on the CPU and resident on the GPU."""
    recipe, target = recipe_for(cpu=cpu), target_in(folder, cpu=cpu)
    device = target.device.type
    result: dict[str, Any] = {"start": "clip", "tokens": CLIP_TOKENS}
    for where in ("text_cpu", "text_gpu"):
        own = where == "text_gpu"
        encoder = None if own else start_text_encoder(recipe, target.checkpoint, for_gpu=not cpu)
        engine = start_engine(recipe, target.checkpoint, device=device, text=encoder)
        work = Work(recipe, engine.components, TINY_DURATION_S if cpu else FULL_DURATION_S)
        ours, runs = Ours(engine), []
        for _ in range(1 + CLIP_RUNS):
            spec = work.spec().model_copy(update={"prompt_used": work.prompt()[: CLIP_TOKENS - 1]})
            runs.append(timed(lambda: ours.render(spec)))  # noqa: B023  it runs at once
        result[where] = statistics.median(runs[1:])  # the first encoding of a process differs
    return result | {"threads": torch.get_num_threads()}


def main() -> None:
    """Run one; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=["plain", "cpu", "text", "clip"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cpu", action="store_true")
    asked = parser.parse_args()
    cpu = asked.cpu or not torch.cuda.is_available()
    acts = {"text": text, "clip": clip}
    act = acts.get(asked.kind, partial(start, kind=asked.kind))
    print(json.dumps(act(asked.folder, cpu=cpu)))


if __name__ == "__main__":
    main()
