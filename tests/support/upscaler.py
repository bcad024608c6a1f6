"""A checkpoint's part that makes frames larger, with random weights."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from anime_studio.engine.upscaling import Upscaler, UpscalerConfig

CONFIG: Mapping[str, int] = {"features": 8, "convolutions": 2, "scale": 4}
WEIGHTS = "diffusion_pytorch_model.safetensors"


def add_upscaler(checkpoint: Path) -> Path:
    """Give the checkpoint in a folder an upscaler that its index names; return the part's folder."""
    torch.manual_seed(1)
    part = checkpoint / "upscaler"
    part.mkdir()
    (part / "config.json").write_text(json.dumps(dict(CONFIG)))
    weights = Upscaler(UpscalerConfig(**CONFIG)).state_dict()
    save_file({name: tensor.half().contiguous() for name, tensor in weights.items()}, part / WEIGHTS)
    index = checkpoint / "model_index.json"
    names = {"upscaler": ["anime_studio", "SRVGGNetCompact"]}
    index.write_text(json.dumps(json.loads(index.read_text()) | names))
    return part
