"""A clip through plain diffusers and through our engine, side by side in one run, with random weights.

On a CUDA device at Wan 2.1 1.3B's full shape (480x832, 81 frames, 3 steps, no guidance); on a CPU at a tiny
shape, which keeps the benchmark alive and says nothing about speed. Every time is the median of `--runs` after
a warm-up, on inputs nobody has seen; every error is relative L2 against the same weights in float32. Each lever
of `Acceleration` is then switched on or off alone. What fails or finds no time says so in its row.

    python benchmarks/engine.py [--runs 5] [--deadline-s 420] [--out benchmarks/results]
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import gc
import json
import math
import platform
import statistics
import subprocess
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from engine_parts import Diffusers, Ours, Work, encode, full_work, narrow, tiny_work

from anime_studio.engine.acceleration import Acceleration, Attention, TextWeights, acceleration_for
from anime_studio.engine.attention import attend, has_fp8_attention, preferring
from anime_studio.engine.decoding import StreamingDecoder
from anime_studio.engine.denoiser import denoiser_for
from anime_studio.engine.engine import Engine
from anime_studio.engine.loading import place_text_encoder

GIB = 1024**3
STAGES = ("text_s", "denoise_forward_s", "decode_s", "encode_s", "total_s")


class Bench:
    """One run: what is measured, where it is written, and when it must end."""

    def __init__(self, work: Work, runs: int, deadline_s: float, out: Path) -> None:
        self.work, self.runs, self.out = work, runs, out
        self.end = time.monotonic() + deadline_s
        self.cuda = work.components.device.type == "cuda"
        self.result: dict[str, Any] = {
            **_where(work.components.device),
            "shape": f"{work.spec().native_width}x{work.spec().native_height}, {work.spec().num_frames} frames",
            "runs": runs,
            "stages": {stage: {} for stage in STAGES},
            "peak_gib": {},
            "relative_l2": {},
            "levers": [],
        }

    def seconds(self, make: Callable[[], Callable[[], Any]], *, warm_ups: int = 2) -> float:
        """Return the median seconds of what *make* returns; *make* prepares fresh inputs outside the clock."""
        times = []
        for index in range(warm_ups + self.runs):
            act = make()
            self.wait()
            begun = time.perf_counter()
            kept = act()
            self.wait()
            times.append(time.perf_counter() - begun)
            del kept
            if index >= warm_ups and time.monotonic() > self.end:
                break
        return statistics.median(times[warm_ups:])

    def wait(self) -> None:
        """Wait until the device is idle."""
        if self.cuda:
            torch.cuda.synchronize()

    def reset_peak(self) -> None:
        """Forget what is free, and begin a new peak."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def gib(self, *, peak: bool) -> float:
        """Return GiB taken from the device, now or at the peak; CUDA graphs hold some that no tensor shows."""
        if not self.cuda:
            return 0.0
        return (torch.cuda.max_memory_reserved() if peak else torch.cuda.memory_reserved()) / GIB

    def write(self) -> None:
        """Write what is known so far; a tiny shape's times are no result."""
        if not self.cuda:
            return
        name = self.result["device"].split()[-1].lower()
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / f"engine_{name}.json").write_text(
            json.dumps(self.result, indent=2) + "\n", encoding="utf-8"
        )


@dataclasses.dataclass
class Reference:
    """One input for each stage and what float32 weights make of it."""

    latents: torch.Tensor
    embeddings: torch.Tensor
    prompt: str
    text: torch.Tensor
    velocity: torch.Tensor
    frames: torch.Tensor


@torch.inference_mode()
def reference(work: Work) -> Reference:
    """Compute the references; no TF32, which cuDNN's convolutions would use by themselves."""
    torch.backends.cudnn.allow_tf32 = False
    plain = Diffusers(work)
    latents, embeddings, prompt = work.latents(), work.embeddings(), work.prompt()
    truth = Reference(
        latents=latents,
        embeddings=embeddings,
        prompt=prompt,
        text=plain.text(prompt).cpu(),
        velocity=plain.forward(latents, embeddings)().cpu(),
        frames=plain.decode_raw(latents)[0].permute(1, 0, 2, 3).cpu(),
    )
    torch.backends.cudnn.allow_tf32 = True
    return truth


def relative_l2(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Return |ours - theirs| / |theirs|, in float64 on the CPU."""
    wide = theirs.detach().cpu().double()
    return float((ours.detach().cpu().double() - wide).norm() / wide.norm())


@torch.inference_mode()
def measure_diffusers(bench: Bench, truth: Reference) -> None:
    """Fill the `diffusers` side."""
    work = bench.work
    plain = Diffusers(work)
    bench.reset_peak()
    stages: Mapping[str, Callable[[], Callable[[], Any]]] = {
        "text_s": lambda: _bound(plain.text, work.prompt()),
        "denoise_forward_s": lambda: plain.forward(work.latents(), work.embeddings()),
        "decode_s": lambda: _bound(plain.decode, work.latents()),
        "encode_s": lambda: _bound(encode, plain.decode(work.latents()), work.spec()),
        "total_s": lambda: _bound(plain.render, work.spec()),
    }
    _fill(bench, "diffusers", stages)
    bench.result["relative_l2"]["diffusers"] = {
        "text": relative_l2(plain.text(truth.prompt), truth.text),
        "denoise_forward": relative_l2(plain.forward(truth.latents, truth.embeddings)(), truth.velocity),
        "decode": relative_l2(plain.decode_raw(truth.latents)[0].permute(1, 0, 2, 3), truth.frames),
    }


@torch.inference_mode()
def measure_ours(bench: Bench, truth: Reference, acceleration: Acceleration) -> None:
    """Fill the `ours` side: the engine takes the components over."""
    work = bench.work
    parts = work.components
    place_text_encoder(parts.text_encoder, parts.device, acceleration)
    ours = Ours(Engine(parts, work.recipe, revision="random", acceleration=acceleration))
    begun = time.perf_counter()
    ours.engine.warm_up()
    bench.wait()
    bench.result["warm_up_s"] = time.perf_counter() - begun
    bench.reset_peak()
    bench.result["resident_gib"] = bench.gib(peak=False)
    stages: Mapping[str, Callable[[], Callable[[], Any]]] = {
        "text_s": lambda: _bound(ours.text, work.spec()),
        "denoise_forward_s": lambda: ours.forward(work.latents(), work.embeddings()),
        "decode_s": lambda: _bound(ours.decode, work.latents()),
        "encode_s": lambda: _bound(encode, ours.decode(work.latents()), work.spec()),
        "total_s": lambda: _bound(ours.render, work.spec()),
    }
    _fill(bench, "ours", stages)
    bench.result["relative_l2"]["ours"] = {
        "text": relative_l2(ours.engine.text.encode(truth.prompt), truth.text),
        "denoise_forward": relative_l2(ours.forward(truth.latents, truth.embeddings)(), truth.velocity),
        "decode": relative_l2(_frames(ours.engine.decoder, truth.latents), truth.frames),
    }
    bench.write()


def measure_levers(bench: Bench, truth: Reference, base: Acceleration, spare: Mapping[str, Any]) -> None:
    """One row for each lever: seconds of its stage, error, memory. *spare* holds bfloat16 copies of the parts."""
    for name, stage, acceleration in _variants(base, cuda=bench.cuda):
        row: dict[str, Any] = {"lever": name, "stage": stage}
        bench.result["levers"].append(row)
        if time.monotonic() > bench.end:
            row["error_message"] = "not run: out of time"
            continue
        torch._dynamo.reset()  # one variant's compiled blocks are no use to the next
        bench.reset_peak()
        try:
            with torch.inference_mode():
                row |= _STAGES[stage](bench, truth, acceleration, spare)
        except Exception as error:  # noqa: BLE001 (a lever that fails is a result)
            row["error_message"] = f"{type(error).__name__}: {error}"[:500]
        bench.write()


def _variants(base: Acceleration, *, cuda: bool) -> Iterator[tuple[str, str, Acceleration]]:
    if not cuda:
        fused = Acceleration(fused_denoiser=True)
        yield "no lever", "denoise_forward", base
        yield "fused_denoiser", "denoise_forward", fused
        yield "text int8", "text", dataclasses.replace(base, text_weights=TextWeights.INT8)
        yield "decode_chunk 2", "decode", dataclasses.replace(base, decode_chunk=2)
        return
    change = dataclasses.replace
    kernels = [Attention.SDPA, Attention.CUDNN, *([Attention.FP8] if has_fp8_attention() else [])]
    for kernel in kernels:
        yield f"attention kernel {kernel}", "attention", change(base, attention=kernel)
    # What is most worth knowing first: the deadline may cut the end off.
    yield "all denoiser levers", "denoise_forward", base
    if has_fp8_attention():
        yield "attention fp8", "denoise_forward", change(base, attention=Attention.FP8)
    yield "all decoder levers", "decode", base
    yield "without fused_norms", "decode", change(base, fused_norms=False)
    for kind in TextWeights:
        yield f"text {kind}", "text", change(base, text_weights=kind)
    for chunk in (1, 4):
        yield f"decode_chunk {chunk}", "decode", change(base, decode_chunk=chunk)
    yield "without fp8_linears", "denoise_forward", change(base, fp8_linears=False)
    yield "attention left to SDPA", "denoise_forward", change(base, attention=Attention.SDPA)
    yield "without compile_blocks", "denoise_forward", change(base, compile_blocks=False)


def _denoise_row(
    bench: Bench, truth: Reference, acceleration: Acceleration, spare: Mapping[str, Any]
) -> dict[str, Any]:
    before = bench.gib(peak=False)
    denoiser = denoiser_for(copy.deepcopy(spare["transformer"]), acceleration)
    timestep = torch.tensor(757, device=truth.latents.device)

    def fresh() -> Callable[[], Any]:
        text = denoiser.condition(bench.work.embeddings())
        return _bound(denoiser, bench.work.latents(), timestep, text)

    begun = time.perf_counter()
    velocity = denoiser(truth.latents, timestep, denoiser.condition(truth.embeddings))
    bench.wait()
    return {
        "first_s": time.perf_counter() - begun,
        "relative_l2": relative_l2(velocity, truth.velocity),
        "seconds": bench.seconds(fresh),
        "peak_gib": bench.gib(peak=True) - before,
    }


def _decode_row(
    bench: Bench, truth: Reference, acceleration: Acceleration, spare: Mapping[str, Any]
) -> dict[str, Any]:
    before = bench.gib(peak=False)
    decoder = StreamingDecoder(spare["vae"], acceleration)
    error = relative_l2(_frames(decoder, truth.latents), truth.frames)
    return {
        "relative_l2": error,
        "seconds": bench.seconds(lambda: _bound(_drain, decoder, bench.work.latents())),
        "peak_gib": bench.gib(peak=True) - before,
    }


def _text_row(
    bench: Bench, truth: Reference, acceleration: Acceleration, spare: Mapping[str, Any]
) -> dict[str, Any]:
    before = bench.gib(peak=False)
    parts = bench.work.components
    packed = place_text_encoder(copy.deepcopy(spare["text_encoder"]), parts.device, acceleration)
    resident = bench.gib(peak=False) - before
    work = dataclasses.replace(bench.work, components=dataclasses.replace(parts, text_encoder=packed))
    plain = Diffusers(work)
    return {
        "relative_l2": relative_l2(plain.text(truth.prompt), truth.text),
        "seconds": bench.seconds(lambda: _bound(plain.text, work.prompt())),
        "resident_gib": resident,
    }


def _attention_row(
    bench: Bench,
    truth: Reference,
    acceleration: Acceleration,
    spare: Mapping[str, Any],
) -> dict[str, Any]:
    config = spare["transformer"].config
    tokens = math.prod(truth.latents.shape[2:]) // math.prod(config.patch_size)
    shape = (1, tokens, config.num_attention_heads, config.attention_head_dim)
    made = {"device": truth.latents.device, "dtype": torch.bfloat16}

    def act(*parts: torch.Tensor) -> torch.Tensor:
        with preferring(acceleration.attention):
            return attend(*parts, acceleration.attention)

    parts = [torch.randn(shape, **made) for _ in range(3)]
    expected = attend(*(part.float() for part in parts))
    before = bench.gib(peak=False)
    return {
        "relative_l2": relative_l2(act(*parts), expected),
        "seconds": bench.seconds(lambda: _bound(act, *(torch.randn(shape, **made) for _ in range(3)))),
        "peak_gib": bench.gib(peak=True) - before,
    }


_STAGES = {
    "attention": _attention_row,
    "denoise_forward": _denoise_row,
    "decode": _decode_row,
    "text": _text_row,
}


def _fill(bench: Bench, side: str, stages: Mapping[str, Callable[[], Callable[[], Any]]]) -> None:
    for stage, make in stages.items():
        bench.result["stages"][stage][side] = bench.seconds(make)
        bench.write()
    bench.result["peak_gib"][side] = bench.gib(peak=True)


def _bound(act: Callable[..., Any], *given: Any) -> Callable[[], Any]:
    return lambda: act(*given)


def _frames(decoder: StreamingDecoder, latents: torch.Tensor) -> torch.Tensor:
    return torch.cat([group.float().cpu() for group in decoder.decode(latents)])


def _drain(decoder: StreamingDecoder, latents: torch.Tensor) -> None:
    for _ in decoder.decode(latents):
        pass


def _where(device: torch.device) -> dict[str, Any]:
    cuda = device.type == "cuda"
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "device": torch.cuda.get_device_name(device) if cuda else platform.processor() or platform.machine(),
        "capability": torch.cuda.get_device_capability(device) if cuda else None,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": commit.stdout.strip() or "unknown",
        "versions": {name: version(name) for name in ("torch", "diffusers", "transformers", "av")}
        | {"python": platform.python_version(), "cudnn": torch.backends.cudnn.version() if cuda else None},
    }


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
    lines += ["| lever | seconds | relative L2 | GiB |", "|---|---|---|---|"]
    for row in result["levers"]:
        if "error_message" in row:
            lines.append(f"| {row['lever']} | {row['error_message']} | | |")
        else:
            gib = row.get("peak_gib", row.get("resident_gib", 0.0))
            lines.append(f"| {row['lever']} | {row['seconds']:.4f} | {row['relative_l2']:.2e} | {gib:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Run and print; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--deadline-s", type=float, default=420.0, help="no new lever is begun after this")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--cpu", action="store_true", help="the tiny shape, even where there is a GPU")
    parser.add_argument("--commit", default="", help="where the folder is no repository")
    asked = parser.parse_args()
    cuda = torch.cuda.is_available() and not asked.cpu
    with tempfile.TemporaryDirectory() as folder:
        work = full_work(torch.device("cuda", 0)) if cuda else tiny_work(Path(folder))
        truth = reference(work)
        if cuda:
            work = narrow(work)
        bench = Bench(work, asked.runs, asked.deadline_s, asked.out)
        bench.result["commit"] = asked.commit or bench.result["commit"]
        measure_diffusers(bench, truth)
        # Copies for the lever rows wait in main memory: peaks are the engine's own.
        names = ("transformer", "vae", "text_encoder")
        spare = {name: copy.deepcopy(getattr(work.components, name)).cpu() for name in names}
        base = acceleration_for(work.components.device)
        try:
            measure_ours(bench, truth, base)
        except Exception as error:  # noqa: BLE001 (each lever's row may still say which one failed)
            traceback.print_exc()
            bench.result["error_message"] = f"{type(error).__name__}: {error}"[:500]
        measure_levers(
            bench, truth, base, {name: part.to(work.components.device) for name, part in spare.items()}
        )
    print(table(bench.result))


if __name__ == "__main__":
    main()
