"""A clip through plain diffusers and through our engine, side by side in one run, with random weights.

On a CUDA device the shape is Wan 2.1 1.3B's (480x832, 81 frames, 3 steps, no guidance). On a CPU it is a tiny one, which
shows that the benchmark runs and says nothing about speed. Every time is the median of `--runs` after a warm-up, on fresh
inputs. Every error is relative L2 against the same weights in float32. Then each option of `Acceleration` is switched on
or off alone. A row that fails, or for which no time is left, has an `error_message`.

    python -m benchmarks.engine.compare [--runs 5] [--deadline-s 420] [--out benchmarks/results]
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from anime_studio.engine.acceleration import Acceleration
from anime_studio.engine.engine import Engine
from anime_studio.engine.loading.architecture import without_encoder
from anime_studio.engine.startup import options_for, warm_up
from benchmarks import RESULTS
from benchmarks.engine.bench import Bench, Reference, all_frames, bound, reference, relative_l2
from benchmarks.engine.options import measure_options
from benchmarks.engine.sides import Diffusers, Ours, encode, full_work, in_bfloat16, tiny_work


@torch.inference_mode()
def measure_diffusers(bench: Bench, truth: Reference) -> None:
    """Fill the `diffusers` side."""
    work = bench.work
    plain = Diffusers(work)
    frames = plain.decode(work.latents())
    bench.reset_peak()
    stages: Mapping[str, Callable[[], Callable[[], Any]]] = {
        "text_s": lambda: bound(plain.text, work.prompt()),
        "denoise_forward_s": lambda: plain.forward(work.latents(), work.embeddings()),
        "decode_s": lambda: bound(plain.decode, work.latents()),
        "encode_s": lambda: bound(encode, frames, work.spec()),
        "total_s": lambda: bound(plain.render, work.spec()),
    }
    _fill(bench, "diffusers", stages)
    bench.result["relative_l2"]["diffusers"] = {
        "text": relative_l2(plain.text(truth.prompt), truth.text),
        "denoise_forward": relative_l2(plain.forward(truth.latents, truth.embeddings)(), truth.velocity),
        "decode": relative_l2(plain.decode_raw(truth.latents)[0].permute(1, 0, 2, 3), truth.frames),
    }


@torch.inference_mode()
def measure_ours(bench: Bench, truth: Reference, acceleration: Acceleration) -> None:
    """Fill the `ours` side; the engine takes the components over."""
    work = bench.work
    parts = work.components
    if bench.cuda:  # the tiny VAE was loaded from files, without an encoder
        without_encoder(parts.vae)
    ours = Ours(Engine(parts, work.recipe, revision="random", acceleration=acceleration))
    begun = time.perf_counter()
    warm_up(ours.engine)
    bench.wait()
    bench.result["warm_up_s"] = time.perf_counter() - begun
    frames = ours.decode(work.latents())
    bench.reset_peak()
    bench.result["resident_gib"] = bench.gib(peak=False)
    stages: Mapping[str, Callable[[], Callable[[], Any]]] = {
        "text_s": lambda: bound(ours.text, work.spec()),
        "denoise_forward_s": lambda: ours.forward(work.latents(), work.embeddings()),
        "decode_s": lambda: bound(ours.decode, work.latents()),
        "encode_s": lambda: bound(encode, frames, work.spec()),
        "total_s": lambda: bound(ours.render, work.spec()),
    }
    _fill(bench, "ours", stages)
    bench.result["mp4_bytes"] = len(ours.render(work.spec()))  # x264's time depends on it
    bench.result["relative_l2"]["ours"] = {
        "text": relative_l2(ours.engine.text.encode(truth.prompt), truth.text),
        "denoise_forward": relative_l2(ours.forward(truth.latents, truth.embeddings)(), truth.velocity),
        "decode": relative_l2(all_frames(ours.engine.decoder, truth.latents), truth.frames),
    }
    bench.write()


def _fill(bench: Bench, side: str, stages: Mapping[str, Callable[[], Callable[[], Any]]]) -> None:
    for stage, make in stages.items():
        bench.result["stages"][stage][side] = bench.seconds(make, warm_ups=1)
        bench.write()
    bench.result["peak_gib"][side] = bench.gib(peak=True)


def table(result: Mapping[str, Any]) -> str:
    """Return the result for people."""
    versions = ", ".join(f"{name} {value}" for name, value in result["versions"].items() if value)
    lines = [f"{result['device']}, {result['shape']}; {versions}; commit {result['commit'][:10]}", ""]
    lines += ["| stage | diffusers | ours | ratio |", "|---|---|---|---|"]
    for stage, sides in result["stages"].items():
        if len(sides) == 2:
            theirs, ours = sides["diffusers"], sides["ours"]
            lines.append(f"| {stage} | {theirs:.4f} | {ours:.4f} | {theirs / ours:.2f} |")
    lines += ["", f"peak GiB {result['peak_gib']}", f"relative L2 {result['relative_l2']}", ""]
    lines += ["| option | seconds | relative L2 | GiB |", "|---|---|---|---|"]
    for row in result["options"]:
        if "error_message" in row:
            lines.append(f"| {row['option']} | {row['error_message']} | | |")
        else:
            gib = row.get("peak_gib", row.get("resident_gib", 0.0))
            lines.append(f"| {row['option']} | {row['seconds']:.4f} | {row['relative_l2']:.2e} | {gib:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Run and print; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--deadline-s", type=float, default=420.0, help="no option is measured after this")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--cpu", action="store_true", help="the tiny shape, even where there is a GPU")
    parser.add_argument("--commit", default="", help="where the folder is no repository")
    asked = parser.parse_args()
    cuda = torch.cuda.is_available() and not asked.cpu
    with tempfile.TemporaryDirectory() as folder:
        work = full_work(torch.device("cuda", 0)) if cuda else tiny_work(Path(folder))
        truth = reference(work)
        if cuda:
            work = in_bfloat16(work)
        bench = Bench(work, asked.runs, asked.deadline_s, asked.out)
        bench.result["commit"] = asked.commit or bench.result["commit"]
        measure_diffusers(bench, truth)
        # Copies for the options' rows stay in host memory, so that peaks are the engine's own.
        names = ("transformer", "vae", "text_encoder")
        spare = {name: copy.deepcopy(getattr(work.components, name)).cpu() for name in names}
        base = options_for(work.recipe, work.components.device)
        try:
            measure_ours(bench, truth, base)
        except Exception as error:  # noqa: BLE001 (the options' rows may still show which one failed)
            traceback.print_exc()
            bench.result["error_message"] = f"{type(error).__name__}: {error}"[:500]
        measure_options(
            bench, truth, base, {name: part.to(work.components.device) for name, part in spare.items()}
        )
    print(table(bench.result))


if __name__ == "__main__":
    main()
