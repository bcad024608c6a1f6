"""What generates latents in a checkpoint, read from the disk; and a shipped checkpoint laid out to train further."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from transformers import AutoTokenizer, UMT5EncoderModel

from anime_studio.checkpoints.pipeline_files import UPSCALER, has_upscaler
from training.machine import Machine

_GENERATING_PARTS = ("tokenizer", "text_encoder", "transformer")


def load_generator(folder: Path, machine: Machine) -> tuple[Any, Any, Any]:
    """Return tokenizer, text encoder and denoiser of *folder*, in float32 on the machine."""
    encoder = (
        UMT5EncoderModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
        .to(machine.device)
        .eval()
    )
    denoiser = WanTransformer3DModel.from_pretrained(folder / "transformer", torch_dtype=torch.float32)
    return AutoTokenizer.from_pretrained(folder / "tokenizer"), encoder, denoiser.to(machine.device).eval()


def unpack(checkpoint: Path, state: Path) -> None:
    """Lay *checkpoint* out in *state* as the stages that made it left it: `vae`, `teacher`, and `upscaler` if it has one."""
    shutil.copytree(checkpoint / "vae", state / "vae", dirs_exist_ok=True)
    if has_upscaler(checkpoint):
        shutil.copytree(checkpoint / UPSCALER, state / UPSCALER, dirs_exist_ok=True)
    for part in _GENERATING_PARTS:
        shutil.copytree(checkpoint / part, state / "teacher" / part, dirs_exist_ok=True)
