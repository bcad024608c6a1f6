"""A tiny checkpoint in the layout of FastWan2.1-T2V-1.3B-Diffusers: random weights, gates beside diffusers' names."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from safetensors.torch import load_file, save_file

from anime_studio.checkpoints.manifest import COMPLETE, Manifest
from anime_studio.engine.loading.gated_transformer import GatedWanTransformer3DModel

TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"


def add_gates(folder: Path) -> Path:
    """Turn the tiny checkpoint in *folder* into one with gates, its index that of a few-step pipeline."""
    config = json.loads((folder / "transformer/config.json").read_text())
    width = config["num_attention_heads"] * config["attention_head_dim"]
    chance = torch.Generator().manual_seed(3)
    weights = load_file(folder / TRANSFORMER)
    for layer in range(config["num_layers"]):
        weights[f"blocks.{layer}.to_gate_compress.weight"] = torch.randn(width, width, generator=chance) / 4
        weights[f"blocks.{layer}.to_gate_compress.bias"] = torch.randn(width, generator=chance)
    save_file(weights, folder / TRANSFORMER)
    index = json.loads((folder / "model_index.json").read_text()) | {"_class_name": "WanDMDPipeline"}
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / COMPLETE).unlink()
    (folder / "manifest.json").unlink()
    Manifest.of(folder).write(folder)
    (folder / COMPLETE).touch()
    return folder


def gated_transformer(seed: int = 0) -> WanTransformer3DModel:
    torch.manual_seed(seed)
    return GatedWanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, text_dim=24, freq_dim=32, ffn_dim=64, num_layers=3
    ).eval()
