"""The denoiser's 8-bit attention: its kernels beside plain torch operations, and compiled for the cards it is for.

The kernels run in Triton's interpreter, in a process of its own, because the interpreter is chosen when Triton is
imported. Skipped without Triton, which comes with CUDA builds of torch only; `pip install triton` brings it anywhere.
"""

import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from anime_studio.core.recipes import SparseAttention
from anime_studio.engine.denoiser.int8_attention import (
    KeyBlocks,
    Launch,
    Ragged,
    attend_int8,
    attend_int8_sparsely,
    launch_for,
    launch_for_tiles,
)
from anime_studio.engine.denoiser.tiles import tiles_of

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)
CHECKS = ["dense", "large_logits", "listed", "copy_engine", "tiles"]
BFLOAT16, E4M3 = Launch(64, 32, 4, 2), Launch(64, 32, 4, 2, e4m3_values=True)
# The interpreter cuts off the end of e4m3's mantissa, where a GPU rounds it: about twice the error.
BOUNDS = {BFLOAT16: 0.015, E4M3: 0.12}


@needs_triton
@pytest.mark.parametrize("check", CHECKS)
def test_interpreted_kernels_attend_as_plain_torch_does(check):
    ran = subprocess.run(
        [sys.executable, __file__, check],
        env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": _with_tests_in_front()},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr


def _with_tests_in_front() -> str:
    tests = str(Path(__file__).parents[2])
    return os.pathsep.join(part for part in (tests, os.environ.get("PYTHONPATH")) if part)


@needs_triton
@pytest.mark.parametrize(
    ("capability", "registers", "shared_bytes"),
    [
        ((8, 0), 200, 40_960),
        ((8, 6), 208, 40_960),
        ((8, 9), 184, 49_216),  # one block of 8 warps a multiprocessor: 65,536 registers, 100 KiB
        ((9, 0), 255, 91_136),  # two blocks of 4 warps a multiprocessor: 65,536 registers, 227 KiB
        ((12, 0), 208, 49_216),
    ],
)
def test_the_kernel_of_each_card_compiles_for_it_and_fits(capability, registers, shared_bytes, tmp_path):
    used = compiled(capability, launch_for(capability), tmp_path / "kernel.cubin")

    assert used["registers"] <= registers
    assert used["shared_bytes"] <= shared_bytes
    assert (
        used["stack_bytes"] <= 32
    )  # spilled registers lie there: Triton 3.8 spills eight for Hopper, 3.6 none


@needs_triton
@pytest.mark.parametrize(
    ("capability", "registers", "shared_bytes"),
    [
        ((8, 0), 255, 40_960),
        ((8, 6), 255, 40_960),
        ((8, 9), 224, 28_708),  # two blocks of 4 warps a multiprocessor
        ((9, 0), 144, 81_944),  # two, three by registers
        ((12, 0), 208, 28_708),
    ],
)
def test_the_kernel_of_each_card_compiles_for_tiles_and_fits(capability, registers, shared_bytes, tmp_path):
    launch = launch_for_tiles(launch_for(capability), 64)
    used = compiled(capability, launch, tmp_path / "kernel.cubin", tiles=624, count=125)
    assert used["registers"] <= registers
    assert used["shared_bytes"] <= shared_bytes
    assert used["stack_bytes"] <= 32


@pytest.mark.parametrize("capability", [(7, 5), (10, 0), (11, 0)])
def test_cards_without_a_faster_8_bit_product_have_no_launch(capability):
    assert launch_for(capability) is None


def compiled(
    capability: tuple[int, int], launch: Launch, file: Path, tiles: int | None = None, count: int = 0
) -> dict[str, int]:
    """Compile the kernel that attends at full shape; return what a thread and a block of it use.

    With *tiles* it is the kernel of sparse attention, in which each of them attends to *count*.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from anime_studio.engine.denoiser import int8_kernels

    heads, width, padded = 12, 128, 32_768 if tiles is None else tiles * launch.keys
    kernel = int8_kernels.attend_e4m3 if launch.e4m3_values else int8_kernels.attend
    constants = {
        "HEADS": heads, "WIDTH": width, "QUERIES": launch.queries, "KEYS": launch.keys,
        "LISTED": tiles is not None, "RAGGED": tiles is not None, "DESCRIBED": launch.copy_engine,
        "COUNT": count or padded // launch.keys, "ALL": 1 << (padded // launch.keys - 1).bit_length(),
    }  # fmt: skip
    types = {"queries": "*i8", "out": "*bf16", "blocks": "*i32", "absent": "*i32", "tokens": "i32"}
    types |= {"starts": "*i32", "sizes": "*i32"}
    types |= {"padded": "i32", "logit_scale": "fp32", "keys": "*i8", "values": "*bf16"}
    if launch.e4m3_values:
        types["values"] = "*fp8e4nv"
    if launch.copy_engine:
        types["keys"] = f"tensordesc<i8[{launch.keys}, {width}]>"
        types["values"] = f"tensordesc<bf16[{launch.keys}, {width}]>"
    names = kernel.arg_names
    signature = {n: "constexpr" if n in constants else types.get(n, "*fp32") for n in names}
    aligned = [i for i, n in enumerate(names) if signature[n].startswith("*") or n == "padded"]
    binary = triton.compile(
        ASTSource(
            fn=kernel,
            signature=signature,
            constexprs={n: constants[n] for n in names if n in constants},
            attrs={(index,): [["tt.divisibility", 16]] for index in aligned},
        ),
        target=GPUTarget("cuda", 10 * capability[0] + capability[1], 32),
        options={"num_warps": launch.num_warps, "num_stages": launch.num_stages},
    )
    file.write_bytes(binary.asm["cubin"])
    read = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file]
    usage = subprocess.run(read, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    return {
        "registers": int(found[1]),
        "stack_bytes": int(found[2]),
        "shared_bytes": binary.metadata.shared,
    }


def error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours.double() - theirs).norm() / theirs.norm())


def dense() -> None:
    from support.plain_attention import plain_attention, random_case

    # 200 tokens are no whole number of tiles; 256 are.
    for tokens, shape in ((200, {}), (256, {"peak": 3.0, "key_offset": 2.0, "value_mean": 1.0})):
        case = random_case(tokens, 2, 32, **shape)
        for launch, bound in BOUNDS.items():
            assert error(attend_int8(*case.given, launch)[0], plain_attention(case)) < bound


def large_logits() -> None:
    """Weights from 2^-1000 to 2^1000: no float32 holds both; int8's error in such a logit is more than one."""
    from support.plain_attention import plain_attention, random_case

    for peak in (10.0, 100.0):
        case = random_case(200, 2, 32, peak=peak)
        for launch in BOUNDS:
            assert error(attend_int8(*case.given, launch)[0], plain_attention(case)) < 0.2


def listed() -> None:
    from support.plain_attention import plain_attention, random_case

    tokens, heads = 200, 2  # the last two of eight blocks hold 8 tokens and none
    case = random_case(tokens, heads, 32, value_mean=1.0)
    chance = torch.Generator().manual_seed(0)
    blocks = torch.stack([torch.randperm(8, generator=chance)[:5] for _ in range(heads * 4)])
    blocks = blocks.view(heads, 4, 5).int()
    absent = ((blocks == 6) * 24 + (blocks == 7) * 32).sum(-1).int()
    allowed = torch.zeros(heads, 4, 8, dtype=torch.bool).scatter_(2, blocks.long(), True)
    allowed = allowed.repeat_interleave(64, 1).repeat_interleave(32, 2)[:, :tokens, :tokens]
    for launch, bound in BOUNDS.items():
        ours = attend_int8(*case.given, launch, KeyBlocks(blocks, absent))[0]
        assert error(ours, plain_attention(case, allowed=allowed)) < bound


def tiles() -> None:
    """Both branches beside the walk from tile to tile; of twelve tiles, most are partial."""
    from support.plain_attention import normed_and_rotated, random_case
    from support.sparse_attention import walked

    grid, heads = (5, 6, 9), 2
    tiles = tiles_of(grid, SparseAttention((4, 4, 4), 0.6), torch.device("cpu"))
    for shape in ({}, {"peak": 3.0, "key_offset": 2.0, "value_mean": 1.0}):
        case = random_case(270, heads, 32, **shape)
        *given, gate = (x.view(270, heads, -1) for x in (*normed_and_rotated(case), torch.randn(270, 64)))
        parts = [
            walked(*(x[tiles.places] for x in (*given, part)), grid, (4, 4, 4), tiles.kept)[tiles.order]
            for part in (gate * 0, gate)
        ]
        expected_fine, expected_coarse = parts[0].flatten(1), (parts[1] - parts[0]).flatten(1)
        for launch, bound in BOUNDS.items():
            for each in (launch, replace(launch, copy_engine=True)):
                fine, coarse = attend_int8_sparsely(
                    *case.given, launch_for_tiles(each, 64), Ragged(tiles.starts, tiles.sizes), tiles.kept
                )
                assert error(fine[0], expected_fine) < bound
                assert error(coarse[tiles.of_token] * gate.flatten(1), expected_coarse) < 1e-5


def copy_engine() -> None:
    from support.plain_attention import random_case

    case = random_case(200, 2, 32)
    for launch in BOUNDS:
        ours = attend_int8(*case.given, replace(launch, copy_engine=True))
        assert torch.equal(ours, attend_int8(*case.given, launch))


if __name__ == "__main__":
    {check.__name__: check for check in (dense, large_logits, listed, copy_engine, tiles)}[sys.argv[1]]()
