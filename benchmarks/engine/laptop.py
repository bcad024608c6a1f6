"""What the shipped checkpoint costs on this machine's CPU: load, text, each step, decode with encode.

python -m benchmarks.engine.laptop [--runs 3] [--out benchmarks/results/laptop_cpu.json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

begun = time.perf_counter()
import torch  # noqa: E402 (importing is part of what is measured)

from anime_studio.checkpoints.store import locate  # noqa: E402
from anime_studio.core.clip import plan  # noqa: E402
from anime_studio.core.recipes import DEMO  # noqa: E402
from anime_studio.engine.startup import start_engine, warm_up  # noqa: E402
from benchmarks import RESULTS  # noqa: E402
from common.schemas import GenerateRequest  # noqa: E402
from training.commit import commit  # noqa: E402

IMPORT_S = time.perf_counter() - begun


def measure(runs: int) -> dict[str, Any]:
    """Return medians over *runs* clips of the demo recipe, after the engine's own warm-up."""
    begun = time.perf_counter()
    engine = start_engine(DEMO, locate(DEMO, Path()), device="cpu")
    load_s = time.perf_counter() - begun
    warm_up(engine)
    clips = []
    for index in range(runs):
        request = GenerateRequest(prompt=f"a fox in the snow, {index} birds", duration=5.0, seed=index)
        spec = plan(request, DEMO, model_revision=DEMO.revision, seed=index)
        with tempfile.TemporaryDirectory() as folder:
            clips.append(engine.render(spec, Path(folder), lambda *_: None))
    return {
        "import_s": IMPORT_S,
        "load_s": load_s,
        "text_s": statistics.median(clip.text_s for clip in clips),
        "step_s": statistics.median(clip.denoise_s for clip in clips) / spec.num_inference_steps,
        "decode_and_encode_s": statistics.median(clip.decode_s for clip in clips),
        "clip": f"{spec.width}x{spec.height}, {spec.num_frames} frames, {spec.num_inference_steps} steps",
    }


def main() -> None:
    """Run, print and write; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "laptop_cpu.json")
    asked = parser.parse_args()
    load_before = os.getloadavg()[0]
    result = {
        "device": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": commit(),
        "versions": {name: version(name) for name in ("torch", "diffusers", "av")},
        "revision": DEMO.revision,
        "seconds": measure(asked.runs),
        "peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,  # Linux counts in KiB
        "load_average": [load_before, os.getloadavg()[0]],
    }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
