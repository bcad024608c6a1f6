"""Our streaming decoder gives what diffusers' decode gives, on every kind of decoder that we load."""

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

from anime_studio.checkpoints.store import PACKAGED
from anime_studio.core.errors import CheckpointError
from anime_studio.engine.decoder.streaming import StreamingDecoder

DEMO_VAE = PACKAGED / "demo" / "vae"


def theirs(vae: AutoencoderKLWan, latents: torch.Tensor) -> torch.Tensor:
    """As `WanPipeline.__call__` ends: denormalise, decode."""
    mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
    std = 1.0 / torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    with torch.inference_mode():
        return vae.decode(latents / std + mean, return_dict=False)[0][0].permute(1, 0, 2, 3)


@pytest.fixture(scope="module")
def demo_vae() -> AutoencoderKLWan:
    return AutoencoderKLWan.from_pretrained(DEMO_VAE, torch_dtype=torch.float32).eval()


def wan_shaped_vae() -> AutoencoderKLWan:
    """The block structure of Wan 2.1's own VAE, with few channels."""
    torch.manual_seed(0)
    return AutoencoderKLWan(base_dim=8, z_dim=16).eval()


@pytest.mark.parametrize("latent_frames", [1, 2, 4])
def test_decode_equals_diffusers_on_the_demo_checkpoint(demo_vae, latent_frames):
    latents = torch.randn(1, 16, latent_frames, 4, 6, generator=torch.Generator().manual_seed(1))

    groups = list(StreamingDecoder(demo_vae).decode(latents))

    assert [len(group) for group in groups] == [1] + [4] * (latent_frames - 1)
    torch.testing.assert_close(torch.cat(groups), theirs(demo_vae, latents), rtol=0, atol=1e-4)


def test_decode_equals_diffusers_on_the_shape_of_wan():
    vae = wan_shaped_vae()
    latents = torch.randn(1, 16, 3, 4, 4, generator=torch.Generator().manual_seed(2))

    ours = torch.cat(list(StreamingDecoder(vae).decode(latents)))

    torch.testing.assert_close(ours, theirs(vae, latents), rtol=0, atol=1e-4)


def test_a_clip_leaves_nothing_behind_for_the_next(demo_vae):
    decoder = StreamingDecoder(demo_vae)
    latents = torch.randn(1, 16, 2, 4, 6, generator=torch.Generator().manual_seed(3))
    first = torch.cat(list(decoder.decode(latents)))
    next(iter(decoder.decode(torch.randn(1, 16, 3, 4, 6))))  # abandoned half way

    again = torch.cat(list(decoder.decode(latents)))

    assert torch.equal(first, again)


def test_a_residual_decoder_is_refused():
    vae = AutoencoderKLWan(base_dim=8, z_dim=16, is_residual=True)

    with pytest.raises(CheckpointError, match=r"Wan 2\.2"):
        StreamingDecoder(vae)
