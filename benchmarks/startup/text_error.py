"""How far the served text encoder is from its own weights in float32, with plain random weights and with outlier channels.

The encoder has UMT5-XXL's shape. A text container computes in bfloat16 on a CPU; the reference is the same network in
float32, on a GPU where there is one. The error is the relative L2 distance of 48 tokens' embeddings.

Outliers: in T5 a few channels of the residual stream are 20 to 100 times the rest (Dettmers et al., "LLM.int8()",
arXiv 2208.07339). Here six channels get them: their rows of both output projections of each layer are multiplied.

    python -m benchmarks.startup.text_error [--cpu]          a JSON line; needs 50 GB of host memory, or 25 GB with a GPU
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
from transformers import UMT5Config, UMT5EncoderModel

TOKENS = 48
OUTLIERS = {7: 20.0, 77: 30.0, 177: 40.0, 277: 60.0, 377: 80.0, 477: 100.0}
"""Channel to factor."""
XXL = UMT5Config(
    vocab_size=256384,
    d_model=4096,
    d_kv=64,
    d_ff=10240,
    num_layers=24,
    num_heads=64,
    feed_forward_proj="gated-gelu",
)
TINY = UMT5Config(
    vocab_size=512, d_model=512, d_kv=16, d_ff=640, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"
)


def plain_encoder(config: UMT5Config, device: torch.device) -> UMT5EncoderModel:
    """Return an encoder with random float32 weights on *device*."""
    torch.manual_seed(0)
    with device:
        encoder = UMT5EncoderModel(config)
    return encoder.eval().requires_grad_(False)


def give_outliers(encoder: UMT5EncoderModel) -> None:
    """Multiply the rows that write the six channels."""
    for block in encoder.encoder.block:
        for written in (block.layer[0].SelfAttention.o.weight, block.layer[1].DenseReluDense.wo.weight):
            for channel, factor in OUTLIERS.items():
                written[channel] *= factor


def error_of(encoder: UMT5EncoderModel) -> float:
    """Return the relative L2 error of bfloat16 on a CPU against *encoder*, which it leaves in bfloat16 there."""
    device = next(encoder.parameters()).device
    tokens = torch.randint(
        0, encoder.config.vocab_size, (1, TOKENS), generator=torch.Generator().manual_seed(1)
    )
    exact = encoder(tokens.to(device)).last_hidden_state.float().cpu()
    served = encoder.to(torch.bfloat16).to("cpu")
    return float((served(tokens).last_hidden_state.float() - exact).norm() / exact.norm())


@torch.inference_mode()
def measure(config: UMT5Config, device: torch.device) -> dict[str, Any]:
    """Return both errors; bfloat16's own is named apart, because another encoding would be held against it."""
    plain = error_of(plain_encoder(config, device))
    encoder = plain_encoder(config, device)
    give_outliers(encoder)
    outliers = error_of(encoder)
    return {"error": plain, "error_outliers": outliers, "error_outliers_bf16": outliers}


def main() -> None:
    """Measure and print; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cpu", action="store_true", help="a tiny shape, even where there is a GPU")
    cpu = parser.parse_args().cpu or not torch.cuda.is_available()
    print(json.dumps(measure(TINY if cpu else XXL, torch.device("cpu" if cpu else "cuda"))))


if __name__ == "__main__":
    main()
