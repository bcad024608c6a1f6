"""One row for each option of `Acceleration`: the seconds of its stage, its error against float32, its memory."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from anime_studio.engine.acceleration import Acceleration, Attention
from anime_studio.engine.decoder.streaming import StreamingDecoder
from anime_studio.engine.denoiser.model import FusedBlock, denoiser_for
from benchmarks.engine.bench import Bench, Reference, all_frames, bound, relative_l2


def measure_options(bench: Bench, truth: Reference, base: Acceleration, spare: Mapping[str, Any]) -> None:
    """Add a row for each option to the result; *spare* holds bfloat16 copies of the models."""
    for name, stage, change in _variants(cuda=bench.cuda):
        acceleration = dataclasses.replace(base, **change)
        row: dict[str, Any] = {"option": name, "stage": stage}
        bench.result["options"].append(row)
        if time.monotonic() > bench.end:
            row["error_message"] = "not run: out of time"
            continue
        torch._dynamo.reset()  # one variant's compiled blocks are no use to the next
        bench.reset_peak()
        try:
            with torch.inference_mode():
                row |= _STAGES[stage](bench, truth, acceleration, spare)
        except Exception as error:  # noqa: BLE001 (an option that fails is a result)
            row["error_message"] = f"{type(error).__name__}: {error}"[:500]
        bench.write()


def _variants(*, cuda: bool) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield (name, stage, what differs from all options); the most important first, since the deadline may cut the rest."""
    if not cuda:
        yield "no option", "denoise_forward", {}
        yield "fused_denoiser", "denoise_forward", {"fused_denoiser": True}
        yield "decode_chunk 2", "decode", {"decode_chunk": 2}
        return
    for kernel in Attention:
        yield f"attention kernel {kernel}", "attention", {"attention": kernel}
    yield "all denoiser options", "denoise_forward", {}
    yield "attention=sdpa", "denoise_forward", {"attention": Attention.SDPA}
    yield "all decoder options", "decode", {}
    yield "without fp8_linears", "denoise_forward", {"fp8_linears": False}
    yield "without compile_blocks", "denoise_forward", {"compile_blocks": False}
    for chunk in (1, 4):
        yield f"decode_chunk={chunk}", "decode", {"decode_chunk": chunk}
    yield "without fused_norms", "decode", {"fused_norms": False}


def _denoise_row(
    bench: Bench, truth: Reference, acceleration: Acceleration, spare: Mapping[str, Any]
) -> dict[str, Any]:
    before = bench.gib(peak=False)
    denoiser = denoiser_for(copy.deepcopy(spare["transformer"]), acceleration)
    timestep = torch.tensor(757, device=truth.latents.device)

    def fresh() -> Callable[[], Any]:
        text = denoiser.condition(bench.work.embeddings())
        return bound(denoiser, bench.work.latents(), timestep, text)

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
    error = relative_l2(all_frames(decoder, truth.latents), truth.frames)
    return {
        "relative_l2": error,
        "seconds": bench.seconds(lambda: bound(_drain, decoder, bench.work.latents())),
        "peak_gib": bench.gib(peak=True) - before,
    }


def _attention_row(
    bench: Bench,
    truth: Reference,
    acceleration: Acceleration,
    spare: Mapping[str, Any],
) -> dict[str, Any]:
    transformer = spare["transformer"]
    tokens = math.prod(truth.latents.shape[2:]) // math.prod(transformer.config.patch_size)
    width = transformer.config.num_attention_heads * transformer.config.attention_head_dim
    rotary = [
        table[..., first::2].contiguous() for first, table in enumerate(transformer.rope(truth.latents))
    ]
    exact = FusedBlock(copy.deepcopy(transformer.blocks[0]).float(), Acceleration())
    act = torch.compile(FusedBlock(copy.deepcopy(transformer.blocks[0]), acceleration).attend_to_itself)

    def fresh() -> torch.Tensor:
        return torch.randn(1, tokens, 3 * width, device=truth.latents.device, dtype=torch.bfloat16)

    qkv = fresh()
    expected = exact.attend_to_itself(qkv.float(), *rotary)
    before = bench.gib(peak=False)
    return {
        "relative_l2": relative_l2(act(qkv, *rotary), expected),
        "seconds": bench.seconds(lambda: bound(act, fresh(), *rotary)),
        "peak_gib": bench.gib(peak=True) - before,
    }


_STAGES = {
    "attention": _attention_row,
    "denoise_forward": _denoise_row,
    "decode": _decode_row,
}


def _drain(decoder: StreamingDecoder, latents: torch.Tensor) -> None:
    for _ in decoder.decode(latents):
        pass
