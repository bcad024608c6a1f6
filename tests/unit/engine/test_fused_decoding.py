"""The fused decoder, run by Triton's interpreter in a process of its own, gives what the plain one gives.

Skipped without Triton, which comes with CUDA builds of torch only; `pip install triton` brings it anywhere.
"""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

from anime_studio.engine.acceleration import Acceleration
from anime_studio.engine.decoder.streaming import StreamingDecoder


def vae(base_dim: int = 8) -> AutoencoderKLWan:
    torch.manual_seed(0)
    return AutoencoderKLWan(base_dim=base_dim, z_dim=16).eval()


def decode(acceleration: Acceleration, latents: torch.Tensor, base_dim: int = 8) -> list[torch.Tensor]:
    return [group.clone() for group in StreamingDecoder(vae(base_dim), acceleration).decode(latents)]


@pytest.mark.parametrize(("chunk", "groups"), [(2, [1, 8, 8]), (3, [1, 12, 4]), (9, [1, 16])])
def test_chunks_change_no_frame(chunk, groups):
    latents = torch.randn(1, 16, 5, 4, 4, generator=torch.Generator().manual_seed(1))

    frames = decode(Acceleration(decode_chunk=chunk), latents)

    assert [len(group) for group in frames] == groups
    torch.testing.assert_close(
        torch.cat(frames), torch.cat(decode(Acceleration(), latents)), rtol=0, atol=1e-5
    )


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_fused_norms_change_no_frame():
    # The interpreter is chosen when Triton is imported.
    ran = subprocess.run(
        [sys.executable, __file__], env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr


def fused_equals_plain() -> None:
    # 96 channels are computed as part of 128, as Wan 2.1's are.
    for frames, chunk, base_dim in ((1, 1, 8), (4, 1, 8), (4, 2, 8), (2, 1, 96)):
        generator = torch.Generator().manual_seed(frames)
        decoder = StreamingDecoder(vae(base_dim), Acceleration(fused_norms=True, decode_chunk=chunk))
        for _ in range(2):  # the second clip begins with an empty cache
            latents = torch.randn(1, 16, frames, 4, 4, generator=generator)
            ours = torch.cat([group.clone() for group in decoder.decode(latents)])
            theirs = torch.cat(decode(Acceleration(), latents, base_dim))
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


if __name__ == "__main__":
    fused_equals_plain()
