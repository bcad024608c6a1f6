"""Sizes: what is trained, and a miniature of it for tests.

The laptop decides. On two cores of a server CPU with AVX-512, float32, one denoiser forward of the full size takes
0.5 s and the decode of 81 frames 0.8 s; on older AVX2 cores three times that. Six steps fit either way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

TOKENS = 64
"""Text tokens a prompt is padded or cut to."""
FLOW_SHIFT = 3.0
"""Timestep shift of flow matching, in training and at the served steps (Wan 2.1 uses 3 for small pictures)."""
STUDENT_STEPS = 6
TEACHER_STEPS = 18
"""A multiple of the student's, so that its sigmas hold all of the student's."""
GUIDANCE = 3.0
"""Of the teacher; the student needs none."""


@dataclass(frozen=True)
class Scale:
    """Everything that differs between a real run and a test.

    Attributes:
        frames: Frames of a clip, 4n + 1.
        vae, denoiser, text: Arguments of `AutoencoderKLWan`, `WanTransformer3DModel` and `UMT5Config`.
        clips: Clips encoded for the denoiser on each device, if there is time.
        short_batch, long_batch: Clips per step and device when the denoiser sees 5 latent frames, or all.
        caption_corpus: Captions the tokenizer learns from.
        upscaler_clips: Clips that the upscaler learns from, if there is time.
        paths: Paths from noise to clip in the pool of distillation, on each device.
    """

    frames: int = 81
    height: int = 112
    width: int = 192
    vae: dict[str, Any] = field(default_factory=lambda: VAE)
    denoiser: dict[str, Any] = field(default_factory=lambda: DENOISER)
    text: dict[str, Any] = field(default_factory=lambda: TEXT)
    vae_batch: int = 4
    judge_batch: int = 32
    clips: int = 20_480
    captions_per_clip: int = 4
    caption_corpus: int = 40_000
    text_batch: int = 1024
    short_batch: int = 256
    long_batch: int = 64
    upscaler_clips: int = 640
    paths: int = 1024
    distil_batch: int = 64
    held_out_clips: int = 32
    prompts: int = 256

    @property
    def latent_frames(self) -> int:
        """Latent frames of a clip."""
        return (self.frames - 1) // 4 + 1


VAE: dict[str, Any] = {
    "base_dim": 32,
    "decoder_base_dim": 32,
    "z_dim": 16,
    "dim_mult": [1, 2, 3],
    "num_res_blocks": 1,
    "temperal_downsample": [True, True],
    "latents_mean": [0.0] * 16,
    "latents_std": [1.0] * 16,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 8,
    "scale_factor_temporal": 4,
}
"""8x8x4 pixels to 16 numbers; `patch_size` 2 lets the convolutions run at half the resolution."""

DENOISER: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 5,
    "attention_head_dim": 64,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 256,
    "freq_dim": 256,
    "ffn_dim": 1024,
    "num_layers": 8,
    "cross_attn_norm": True,
    "rope_max_seq_len": 256,
}

TEXT: dict[str, Any] = {
    "d_model": 256,
    "d_kv": 64,
    "d_ff": 512,
    "num_layers": 3,
    "num_heads": 4,
    "dropout_rate": 0.0,
    "feed_forward_proj": "gated-gelu",
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}

FULL = Scale()

TINY = Scale(
    frames=9,
    height=32,
    width=48,
    vae=VAE | {"base_dim": 8, "decoder_base_dim": 8},
    denoiser=DENOISER | {"num_attention_heads": 2, "attention_head_dim": 24, "ffn_dim": 64, "num_layers": 2, "text_dim": 32},
    text=TEXT | {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2},
    vae_batch=2,
    judge_batch=2,
    clips=8,
    captions_per_clip=2,
    caption_corpus=4000,
    text_batch=4,
    short_batch=2,
    long_batch=2,
    upscaler_clips=2,
    paths=4,
    distil_batch=2,
    held_out_clips=2,
    prompts=4,
)  # fmt: skip
