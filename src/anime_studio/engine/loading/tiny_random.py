"""The checkpoint `tiny-random`: every part of a Wan pipeline with a few random weights.

For tests, and for benchmarks where there is no GPU. It generates coloured noise in a fraction of a second, through the
same code as real weights. `python -m anime_studio.engine.loading.tiny_random FOLDER` writes it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from anime_studio.checkpoints.manifest import COMPLETE, Manifest

TEXT_DIM = 32
SHARD = "2GB"
"""A large model gets several files, so that several threads can hash them."""
MODEL_INDEX: Final[dict[str, Any]] = {
    "_class_name": "WanPipeline",
    "_diffusers_version": "0.42.1",
    "boundary_ratio": None,
    "expand_timesteps": False,
    "scheduler": ["diffusers", "UniPCMultistepScheduler"],
    "text_encoder": ["transformers", "UMT5EncoderModel"],
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    "transformer": ["diffusers", "WanTransformer3DModel"],
    "transformer_2": [None, None],
    "vae": ["diffusers", "AutoencoderKLWan"],
}
"""`model_index.json` of every checkpoint that we write."""


def write_tiny_random(folder: Path, *, seed: int = 0) -> Path:
    """Write the checkpoint into *folder*, which is created if needed, and return it. A seed always gives the same bytes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return write_checkpoint(folder, _text_encoder(), _transformer(), _vae())


def write_checkpoint(
    folder: Path, text_encoder: UMT5EncoderModel, transformer: WanTransformer3DModel, vae: AutoencoderKLWan
) -> Path:
    """Write these models, and a tokenizer of bytes, as a complete checkpoint in *folder*, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    text_encoder.save_pretrained(folder / "text_encoder", max_shard_size=SHARD)
    transformer.save_pretrained(folder / "transformer", max_shard_size=SHARD)
    vae.save_pretrained(folder / "vae")
    byte_tokenizer().save_pretrained(folder / "tokenizer")
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    scheduler.save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps(MODEL_INDEX, indent=2) + "\n", encoding="utf-8")
    Manifest.of(folder).write(folder)
    (folder / COMPLETE).touch()
    return folder


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of bytes: 256 of them, padding and an end."""
    vocabulary = {"<pad>": 0, "</s>": 1} | {
        byte: index for index, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), start=2)
    }
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    special = {"pad_token": "<pad>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def _text_encoder() -> UMT5EncoderModel:
    config = UMT5Config(vocab_size=258, d_model=TEXT_DIM, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    return UMT5EncoderModel(config)


def _transformer() -> WanTransformer3DModel:
    return WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=TEXT_DIM,
        freq_dim=32,
        ffn_dim=64,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=64,
    )


def _vae() -> AutoencoderKLWan:
    return AutoencoderKLWan(
        base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )


if __name__ == "__main__":
    write_tiny_random(Path(sys.argv[1]))
