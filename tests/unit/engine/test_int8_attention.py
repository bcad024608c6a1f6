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

from anime_studio.engine.denoiser.int8_attention import KeyBlocks, Launch, attend_int8, launch_for

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)
CHECKS = ["dense", "large_logits", "listed", "copy_engine"]
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


@pytest.mark.parametrize("capability", [(7, 5), (10, 0), (11, 0)])
def test_cards_without_a_faster_8_bit_product_have_no_launch(capability):
    assert launch_for(capability) is None


def compiled(capability: tuple[int, int], launch: Launch, file: Path) -> dict[str, int]:
    """Compile the kernel that attends at full shape; return what a thread and a block of it use."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from anime_studio.engine.denoiser import int8_kernels

    heads, width, padded = 12, 128, 32_768
    kernel = int8_kernels.attend_e4m3 if launch.e4m3_values else int8_kernels.attend
    constants = {
        "HEADS": heads, "WIDTH": width, "QUERIES": launch.queries, "KEYS": launch.keys, "LISTED": False,
        "COUNT": padded // launch.keys, "DESCRIBED": launch.copy_engine, "ALL": padded // launch.keys,
    }  # fmt: skip
    types = {"queries": "*i8", "out": "*bf16", "blocks": "*i32", "absent": "*i32", "tokens": "i32"}
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


def copy_engine() -> None:
    from support.plain_attention import random_case

    case = random_case(200, 2, 32)
    for launch in BOUNDS:
        ours = attend_int8(*case.given, replace(launch, copy_engine=True))
        assert torch.equal(ours, attend_int8(*case.given, launch))


if __name__ == "__main__":
    {"dense": dense, "large_logits": large_logits, "listed": listed, "copy_engine": copy_engine}[
        sys.argv[1]
    ]()
