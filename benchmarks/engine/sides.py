"""The two sides of the comparison, over models with random weights and fresh inputs.

`Diffusers` is `WanPipeline` with its defaults and an encoder after it; `Ours` is `anime_studio.engine`. Both
use the same weights. Full size is Wan 2.1 1.3B's (Wan2.1 `wan/configs/wan_t2v_1_3B.py`, UMT5-XXL's config.json).
"""

from __future__ import annotations

import copy
import random
import string
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import WanPipeline
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from transformers import UMT5Config, UMT5EncoderModel

from anime_studio.checkpoints.store import Checkpoint
from anime_studio.core.clip import plan
from anime_studio.core.recipes import FASTWAN_3STEP, TINY_RANDOM, Recipe
from anime_studio.engine.engine import Engine
from anime_studio.engine.loading.components import Components, latent_shape, load_components
from anime_studio.engine.loading.tiny_random import byte_tokenizer, write_tiny_random
from anime_studio.engine.video import VideoWriter
from common.schemas import ClipSpec, GenerateRequest

FULL_DURATION_S, TINY_DURATION_S = 5.0, 0.5
GATE_STD = 0.3
"""Random gates are about 1/39, which would hide what the layers compute; trained gates are larger."""
CONTRAST = 0.1
"""Of the VAE's last convolution: x264's time depends on content, and no clip is full-range noise."""
Groups = list[np.ndarray[Any, Any]]
"""A clip's frames in groups: uint8 (n, height, width, 3)."""
_IN_FLOAT32 = ("time_embedder", "scale_shift_table", "norm1", "norm2", "norm3")
"""`WanTransformer3DModel._keep_in_fp32_modules`, which `from_pretrained` honours and a constructor does not."""


@dataclass
class Work:
    """The clip to generate, and fresh inputs for each stage."""

    recipe: Recipe
    components: Components
    duration_s: float
    _random: random.Random = field(default_factory=random.Random)

    def prompt(self) -> str:
        """Return a prompt that no cache holds, long enough to fill the encoder's tokens."""
        letters = self._random.choices(string.ascii_lowercase + " ", k=self.recipe.max_sequence_length)
        return "".join(letters)

    def spec(self) -> ClipSpec:
        """Return a clip with a fresh prompt and seed."""
        request = GenerateRequest(prompt=self.prompt()[:200], duration=self.duration_s, seed=self.seed())
        return plan(request, self.recipe, model_revision="random", seed=0)

    def seed(self) -> int:
        """Return a fresh seed."""
        return self._random.randrange(2**31)

    def latents(self) -> torch.Tensor:
        """Return fresh latents, float32, on the device."""
        spec = self.spec()
        shape = latent_shape(self.components, spec.num_frames, spec.native_height, spec.native_width)
        return torch.randn(shape, device=self.components.device)

    def embeddings(self) -> torch.Tensor:
        """Return fresh embeddings in the denoiser's dtype."""
        transformer = self.components.transformer
        shape = (1, self.recipe.max_sequence_length, transformer.config.text_dim)
        return torch.randn(
            shape, device=self.components.device, dtype=transformer.patch_embedding.weight.dtype
        )


def full_transformer(device: torch.device) -> WanTransformer3DModel:
    """Return Wan 2.1 1.3B's denoiser with random float32 weights on *device*."""
    with device:
        transformer = WanTransformer3DModel(num_attention_heads=12, num_layers=30, ffn_dim=8960)
    with torch.no_grad():
        for block in transformer.blocks:
            block.scale_shift_table.normal_(0, GATE_STD)
    return transformer.eval().requires_grad_(False)


def full_work(device: torch.device) -> Work:
    """Return Wan 2.1 1.3B with random float32 weights on *device*; `in_bfloat16` casts them."""
    transformer = full_transformer(device)
    with device:
        vae = AutoencoderKLWan()
        text_encoder = UMT5EncoderModel(
            UMT5Config(
                vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64,
                feed_forward_proj="gated-gelu",
            )
        )  # fmt: skip
    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(CONTRAST)
    components = Components(
        folder=Path(),
        tokenizer=byte_tokenizer(),
        text_encoder=text_encoder.eval().requires_grad_(False),
        transformer=transformer.eval().requires_grad_(False),
        vae=vae.eval().requires_grad_(False),
        scheduler_config=dict(UniPCMultistepScheduler(use_flow_sigmas=True, flow_shift=3.0).config),
        device=device,
    )
    return Work(FASTWAN_3STEP, components, FULL_DURATION_S)


def in_bfloat16(work: Work) -> Work:
    """Cast the weights of *work* to bfloat16 where loading would, and return it."""
    parts = work.components
    for module in (parts.text_encoder, parts.vae):
        module.to(torch.bfloat16)
    cast_transformer(parts.transformer)
    return work


def cast_transformer(transformer: WanTransformer3DModel) -> WanTransformer3DModel:
    """Cast the denoiser's weights to bfloat16 where loading would, and return it."""
    rotary = copy.deepcopy(transformer.rope)  # loading leaves its angles in float32
    transformer.to(torch.bfloat16)
    for name, parameter in transformer.named_parameters():
        if any(part in name.split(".") for part in _IN_FLOAT32):
            parameter.data = parameter.data.float()
    transformer.rope = rotary
    return transformer


def tiny_work(folder: Path) -> Work:
    """Return the tiny random checkpoint on the CPU, written into *folder*."""
    components = load_components(Checkpoint.at(write_tiny_random(folder)), torch.device("cpu"))
    return Work(TINY_RANDOM, components, TINY_DURATION_S)


class Diffusers:
    """Plain `WanPipeline`, its defaults, and an MP4 after it."""

    def __init__(self, work: Work) -> None:
        parts = work.components
        self._work = work
        self._pipeline = WanPipeline(
            tokenizer=parts.tokenizer,
            text_encoder=parts.text_encoder,
            transformer=parts.transformer,
            vae=parts.vae,
            scheduler=UniPCMultistepScheduler.from_config(
                dict(parts.scheduler_config), prediction_type="flow_prediction", use_flow_sigmas=True
            ),
        )
        self._pipeline.set_progress_bar_config(disable=True)

    def text(self, prompt: str) -> torch.Tensor:
        """Prompt to embeddings."""
        embeddings: torch.Tensor = self._pipeline.encode_prompt(
            prompt,
            do_classifier_free_guidance=False,
            max_sequence_length=self._work.recipe.max_sequence_length,
        )[0]
        return embeddings

    def forward(self, latents: torch.Tensor, embeddings: torch.Tensor) -> Callable[[], torch.Tensor]:
        """One denoise forward."""
        transformer, timestep = self._pipeline.transformer, torch.tensor([757], device=latents.device)
        latents, embeddings = latents.to(transformer.dtype), embeddings.to(transformer.dtype)
        return lambda: transformer(latents, timestep, embeddings, return_dict=False)[0]

    def decode(self, latents: torch.Tensor) -> Groups:
        """Latents to uint8 frames in host memory."""
        decoded = self.decode_raw(latents)
        frames = self._pipeline.video_processor.postprocess_video(decoded, output_type="np")[0]
        return [(frames * 255).round().astype(np.uint8)]

    def decode_raw(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents to frames (1, 3, n, height, width), as `WanPipeline.__call__` ends."""
        vae = self._pipeline.vae
        mean = torch.tensor(vae.config.latents_mean, device=latents.device, dtype=vae.dtype)
        std = 1.0 / torch.tensor(vae.config.latents_std, device=latents.device, dtype=vae.dtype)
        shape = (1, vae.config.z_dim, 1, 1, 1)
        frames: torch.Tensor = vae.decode(
            latents.to(vae.dtype) / std.view(shape) + mean.view(shape), return_dict=False
        )[0]
        return frames

    def render(self, spec: ClipSpec) -> bytes:
        """Prompt to MP4 bytes."""
        frames = self._pipeline(
            spec.prompt_used,
            height=spec.native_height,
            width=spec.native_width,
            num_frames=spec.num_frames,
            num_inference_steps=spec.num_inference_steps,
            guidance_scale=1.0,
            max_sequence_length=self._work.recipe.max_sequence_length,
            generator=torch.Generator("cpu").manual_seed(spec.seed),
            output_type="np",
        ).frames[0]
        return encode([(frames * 255).round().astype(np.uint8)], spec)


class Ours:
    """The engine, warm."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def text(self, spec: ClipSpec) -> torch.Tensor:
        """Prompt to embeddings."""
        return self.engine.embed(spec)[0]

    def forward(self, latents: torch.Tensor, embeddings: torch.Tensor) -> Callable[[], torch.Tensor]:
        """One denoise forward; the text is conditioned on before, as in every step of a clip."""
        text, timestep = self.engine.denoiser.condition(embeddings), torch.tensor(757, device=latents.device)
        return lambda: self.engine.denoiser(latents, timestep, text)

    def decode(self, latents: torch.Tensor) -> Groups:
        """Latents to uint8 frames in host memory."""
        return list(self.engine.frames(latents))

    def render(self, spec: ClipSpec) -> bytes:
        """Prompt to MP4 bytes."""
        with tempfile.TemporaryDirectory() as folder:
            return self.engine.render(spec, Path(folder), lambda *_: None).video.read_bytes()


def encode(groups: Groups, spec: ClipSpec) -> bytes:
    """Frames to MP4 bytes by our writer; both sides use it."""
    with tempfile.TemporaryDirectory() as folder:
        video, poster = Path(folder, "clip.mp4"), Path(folder, "poster.jpg")
        size = (spec.width, spec.height)
        with VideoWriter(
            video, poster, size=size, fps=spec.fps, num_frames=spec.num_frames, metadata="benchmark"
        ) as writer:
            for group in groups:
                writer.write(group)
        return video.read_bytes()
