"""Our loop gives what `WanPipeline` gives, and the few-step sampler what its paper says."""

import pytest
import torch

from anime_studio.core.recipes import FASTWAN_3STEP, FASTWAN_3STEP_UNIPC, TINY_RANDOM
from anime_studio.engine.engine import Engine
from anime_studio.engine.sampling import nearest_sigma, sample, seeded_noise
from support.engine import spec_of


def ignore(*_: object) -> None: ...


def denoise(engine: Engine, **request: object) -> torch.Tensor:
    spec = spec_of(**request)
    return engine.denoise(spec, *engine.embed(spec), ignore)


@pytest.mark.parametrize("guidance_scale", [None, 4.0])
def test_fifty_steps_equal_wan_pipeline(engine, guidance_scale):
    from diffusers import WanPipeline
    from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

    parts = engine.components
    pipeline = WanPipeline(
        tokenizer=parts.tokenizer,
        text_encoder=parts.text_encoder,
        transformer=parts.transformer,
        vae=parts.vae,
        scheduler=UniPCMultistepScheduler.from_config(dict(parts.scheduler_config)),
    )
    pipeline.set_progress_bar_config(disable=True)
    spec = spec_of(num_inference_steps=50, guidance_scale=guidance_scale)
    theirs = pipeline(
        spec.prompt_used,
        negative_prompt="",
        height=spec.native_height,
        width=spec.native_width,
        num_frames=spec.num_frames,
        num_inference_steps=50,
        guidance_scale=guidance_scale or 1.0,
        max_sequence_length=TINY_RANDOM.max_sequence_length,
        generator=torch.Generator("cpu").manual_seed(spec.seed),
        output_type="latent",
    ).frames

    ours = denoise(engine, num_inference_steps=50, guidance_scale=guidance_scale)

    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(engine):
    first, again, other = (denoise(engine, seed=seed) for seed in (7, 7, 8))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_few_step_sigmas_are_the_published_timesteps():
    assert [nearest_sigma(t, 8.0) for t in (1000, 757, 522)] == pytest.approx([1.0, 0.757, 0.522], abs=2e-3)


def test_few_step_sampler_predicts_x0_and_renoises():
    noise, generator = seeded_noise((1, 2, 1, 2, 2), seed=5)
    timesteps: list[int] = []

    def velocity(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        timesteps.append(int(timestep))
        return 0.5 * latents + 1

    *_, ours = sample(FASTWAN_3STEP, 3, {}, noise, velocity, generator)

    same = torch.Generator("cpu").manual_seed(5)
    x = torch.randn(noise.shape, generator=same).double()
    sigmas = [nearest_sigma(t, 8.0) for t in (1000, 757, 522)]
    for sigma, following in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
        x0 = x - sigma * (0.5 * x + 1)
        fresh = torch.randn(noise.shape, generator=same).double() if following else torch.zeros_like(x)
        x = (1 - following) * x0 + following * fresh
    assert timesteps == [1000, 757, 522]
    torch.testing.assert_close(ours.double(), x, rtol=0, atol=1e-5)


def test_few_step_sampler_ends_on_clean_latents():
    noise, generator = seeded_noise((1, 2, 1, 2, 2), seed=5)
    data = torch.full_like(noise, -1.0)

    def velocity(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """A perfect model's, which leads from any noisy point straight to the data."""
        return (latents - data) / nearest_sigma(int(timestep), 8.0)

    *_, latents = sample(FASTWAN_3STEP, 3, {}, noise, velocity, generator)

    torch.testing.assert_close(latents, data, rtol=0, atol=1e-5)


def test_the_other_sampler_of_the_student_takes_the_timesteps_of_its_authors_example():
    seen: list[int] = []

    def velocity(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        seen.append(int(timestep))
        return torch.zeros_like(latents)

    noise, generator = seeded_noise((1, 4, 1, 2, 2), 0)
    list(sample(FASTWAN_3STEP_UNIPC, 3, {"solver_order": 2}, noise, velocity, generator))

    assert seen == [999, 857, 600]
