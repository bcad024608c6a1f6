"""Self-attention of the denoiser by each kernel: seconds and error of one forward, with flat and with peaked weights.

Random weights give nearly flat attention, the easy case for 8 bits. In the second case queries are three times as
large and the keys of a layer share an offset, as in trained models. Errors are relative L2 against the same weights in
float32; seconds are the median of `--runs` forwards after a warm-up, on fresh latents. Needs a CUDA device.

    python -m benchmarks.engine.attention [--runs 10] [--out benchmarks/results]
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from anime_studio.core.recipes import FASTWAN_3STEP
from anime_studio.engine.acceleration import PLAIN, Acceleration, Attention
from anime_studio.engine.denoiser.model import Denoiser, denoiser_for
from anime_studio.engine.startup import options_for
from benchmarks import RESULTS, card_in
from benchmarks.engine.bench import GIB, machine_and_versions, relative_l2
from benchmarks.engine.sides import cast_transformer, full_transformer

DEVICE = torch.device("cuda", 0)
LATENTS, TEXT = (1, 16, 21, 60, 104), (1, 512, 4096)
"""Wan 2.1 1.3B's, of 81 frames in 480x832."""
PEAK = 3.0


class Case:
    """Weights, one input, and what float32 makes of it."""

    def __init__(self, *, peaked: bool) -> None:
        torch.manual_seed(0)
        self.model = full_transformer(DEVICE)
        if peaked:
            with torch.no_grad():
                for block in self.model.blocks:
                    block.attn1.norm_q.weight.mul_(PEAK)
                    block.attn1.to_k.bias.normal_(0, 1)
        self.latents = torch.randn(LATENTS, device=DEVICE)
        self.text = torch.randn(TEXT, device=DEVICE)
        self.exact = self.predict(denoiser_for(self.model, PLAIN), self.latents).cpu()

    def predict(self, denoiser: Denoiser, latents: torch.Tensor) -> torch.Tensor:
        """Return the velocity after the text was conditioned on anew."""
        return denoiser(latents, torch.tensor(757, device=DEVICE), denoiser.condition(self.text))

    def measure(self, options: Acceleration, runs: int) -> dict[str, float]:
        """Return error, seconds and peak memory of a forward with *options*."""
        torch._dynamo.reset()
        torch.cuda.empty_cache()
        denoiser = denoiser_for(cast_transformer(copy.deepcopy(self.model)), options)
        error = relative_l2(self.predict(denoiser, self.latents), self.exact)
        text, timestep = denoiser.condition(self.text), torch.tensor(757, device=DEVICE)
        torch.cuda.reset_peak_memory_stats()
        seconds = []
        for _ in range(2 + runs):
            latents = torch.randn(LATENTS, device=DEVICE)
            torch.cuda.synchronize()
            begun = time.perf_counter()
            denoiser(latents, timestep, text)
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - begun)
        peak = torch.cuda.max_memory_allocated() / GIB
        return {"seconds": statistics.median(seconds[2:]), "error": error, "peak_gib": peak}


@torch.inference_mode()
def measure(runs: int) -> list[dict[str, Any]]:
    """Return a row for each kernel."""
    options = options_for(FASTWAN_3STEP, DEVICE)
    rows: dict[Attention, dict[str, Any]] = {kernel: {"attention": kernel.value} for kernel in Attention}
    for peaked in (False, True):
        case = Case(peaked=peaked)
        for kernel, row in rows.items():
            row["peaked" if peaked else "flat"] = case.measure(replace(options, attention=kernel), runs)
    return list(rows.values())


def main() -> None:
    """Run, print and write; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--commit", default="", help="where the folder is no repository")
    asked = parser.parse_args()
    result = machine_and_versions(DEVICE)
    result |= {"commit": asked.commit or result["commit"], "rows": measure(asked.runs)}
    print(json.dumps(result, indent=2))
    asked.out.mkdir(parents=True, exist_ok=True)
    file = asked.out / f"attention_{card_in(result)}.json"
    file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
