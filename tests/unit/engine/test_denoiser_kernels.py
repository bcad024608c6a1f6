"""The denoiser's Triton kernel, run by Triton's interpreter in a process of its own, computes what torch computes.

Skipped without Triton, which comes with CUDA builds of torch only; `pip install triton` brings it anywhere.
"""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from torch.nn import functional


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_gelu_and_e4m3_in_one_kernel():
    # The interpreter is chosen when Triton is imported.
    ran = subprocess.run(
        [sys.executable, __file__], env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr


def kernel_equals_torch() -> None:
    from anime_studio.engine.denoiser.e4m3 import E4M3_MAX, SMALLEST_MAX, to_e4m3
    from anime_studio.engine.denoiser.kernels import _gelu_rows_to_e4m3

    for width, head, tail in ((280, 256, 32), (256, 256, 1)):
        x = (3 * torch.randn(5, width, generator=torch.Generator().manual_seed(0))).bfloat16()
        x[1] = 0.0
        # Into float32, unrounded: Triton's interpreter rounds to e4m3 differently from a GPU.
        levels, scale = torch.empty(5, width), torch.empty(5, 1)
        _gelu_rows_to_e4m3[(5,)](
            x, levels, scale, width, HEAD=head, TAIL=tail, LARGEST=E4M3_MAX, SMALLEST=SMALLEST_MAX
        )
        exact = functional.gelu(x.float(), approximate="tanh")
        _, expected = to_e4m3(exact)
        torch.testing.assert_close(scale, expected, rtol=1e-5, atol=0)
        torch.testing.assert_close(levels * scale, exact, rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    kernel_equals_torch()
