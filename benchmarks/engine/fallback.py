"""What an engine costs when a GPU refuses a fast path: seconds of each stage and memory, by what it starts without.

The whole start runs, as in the worker: load, check, warm up, and two clips without their MP4. The denoiser has
Wan 2.1 1.3B's width and LAYERS of its 30 layers, the text encoder UMT5-XXL's width and three of its 24, so that writing
random weights takes seconds; the VAE is whole. The last row refuses a path for real, by a decoder that raises.

    python -m benchmarks.engine.fallback [--out benchmarks/results/fallback_<device>.json]
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from transformers import UMT5Config, UMT5EncoderModel

from anime_studio.checkpoints.store import Checkpoint
from anime_studio.core.clip import plan
from anime_studio.core.recipes import FASTWAN_3STEP
from anime_studio.engine import engine as engine_module
from anime_studio.engine import startup
from anime_studio.engine.acceleration import PLAIN, Acceleration
from anime_studio.engine.engine import Engine
from anime_studio.engine.fallback import ORDER, Part
from anime_studio.engine.loading.tiny_random import write_checkpoint
from benchmarks import RESULTS
from common.schemas import GenerateRequest
from training.commit import commit

LAYERS = 6
GIB = 1024**3


def write_weights(folder: Path) -> Checkpoint:
    """Write random weights in bfloat16."""
    torch.manual_seed(0)
    config = UMT5Config(vocab_size=258, d_model=4096, d_kv=64, d_ff=10240, num_layers=3, num_heads=64)
    with torch.device("cuda"):
        models = (
            UMT5EncoderModel(config),
            WanTransformer3DModel(num_attention_heads=12, num_layers=LAYERS, ffn_dim=8960),
            AutoencoderKLWan(),
        )
    text, transformer, vae = (model.to(torch.bfloat16).cpu() for model in models)
    return Checkpoint.at(write_checkpoint(folder / FASTWAN_3STEP.name / ("0" * 40), text, transformer, vae))


def variants(base: Acceleration) -> Iterator[tuple[str, Acceleration]]:
    """Yield what a start is without, and its options: what `engine.fallback` drops, and no fast path at all."""
    yield "", base
    for part in Part:
        for name, changes in ORDER[part]:
            if (options := dataclasses.replace(base, **changes)) != base:
                yield name, options
    yield "any fast path", PLAIN


def measure(checkpoint: Checkpoint, without: str, options: Acceleration) -> dict[str, Any]:
    """Return the row of one start."""
    gc.collect()
    torch.cuda.empty_cache()
    begun = time.perf_counter()
    with patch.object(startup, "options_for", lambda *_: options):
        engine = startup.start_engine(FASTWAN_3STEP, checkpoint, device="cuda")
    row = {"without": without, "refused": engine.refused, "start_s": round(time.perf_counter() - begun, 1)}
    torch.cuda.reset_peak_memory_stats()
    draw(engine)
    denoise_s, decode_s = (round(seconds, 3) for seconds in draw(engine))
    peak_gib = round(torch.cuda.max_memory_allocated() / GIB, 2)
    return row | {"denoise_s": denoise_s, "decode_s": decode_s, "peak_gib": peak_gib}


def draw(engine: Engine) -> tuple[float, float]:
    """Generate the frames of one clip; return the seconds of denoise and decode."""
    request = GenerateRequest(prompt="a cat on a roof", seed=1)
    spec = plan(request, FASTWAN_3STEP, model_revision="random", seed=1)
    embeddings, negative = engine.embed(spec)
    torch.cuda.synchronize()
    times = [time.perf_counter()]
    latents = engine.denoise(spec, embeddings, negative, lambda *_: None)
    torch.cuda.synchronize()
    times.append(time.perf_counter())
    for _ in engine.frames(latents):
        pass
    times.append(time.perf_counter())
    return times[1] - times[0], times[2] - times[1]


@contextmanager
def refusing_fused_norms() -> Iterator[None]:
    """Let the decoder refuse its fused norms, as a card does for which a kernel was not built."""
    real = engine_module.decoder_for

    def refuse(vae: Any, acceleration: Acceleration) -> Any:
        if acceleration.fused_norms:
            raise RuntimeError("no kernel image is available for execution on the device")
        return real(vae, acceleration)

    with patch.object(engine_module, "decoder_for", refuse):
        yield


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "fallback_gpu.json")
    parser.add_argument("--commit", default="", help="where the folder is no repository")
    options = parser.parse_args()
    base = startup.options_for(FASTWAN_3STEP, torch.device("cuda", 0))
    result: dict[str, Any] = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(0),
        "versions": {"torch": torch.__version__},
        "commit": options.commit or commit(),
        "denoiser_layers": LAYERS,
        "rows": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_weights(Path(folder))
        for without, acceleration in variants(base):
            result["rows"].append(measure(checkpoint, without, acceleration))
            print(result["rows"][-1], flush=True)
        with refusing_fused_norms():
            result["rows"].append(measure(checkpoint, "what a decoder refused", base))
    text = json.dumps(result, indent=2) + "\n"
    print(text, end="")
    options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
