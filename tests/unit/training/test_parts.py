"""The parts of training, compared with diffusers and with arithmetic."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)

from training.autoencoder import build_vae, decode_clip, encode_clip
from training.config import STUDENT_STEPS, TEACHER_STEPS, TINY
from training.machine import Machine
from training.optimize import Learner, Muon, ramp
from training.report import Curve, save_sheet
from training.sampling import grid, guided, sample, served_scheduler
from training.text import build_text_encoder, embed, tokenize, train_tokenizer
from training.upscaler import CONFIG, smooth_upscaler
from training.upscaler_evaluation import squares


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TINY.caption_corpus)


def test_whole_clip_encode_and_decode_equal_diffusers_chunked_ones():
    torch.manual_seed(0)
    vae = build_vae(TINY).eval()
    clip = torch.rand(1, 3, 13, 32, 48) * 2 - 1
    with torch.no_grad():
        chunked = vae.encode(clip).latent_dist.mode()
        mean, _ = encode_clip(vae, clip)
        assert torch.allclose(chunked, mean, atol=1e-5)
        assert torch.allclose(vae.decode(mean).sample, decode_clip(vae, mean).clamp(-1, 1), atol=1e-5)


def test_the_served_scheduler_takes_the_steps_the_student_was_taught():
    noise = torch.randn(1, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    def velocity(latents, timesteps):
        return torch.sin(3 * latents) + timesteps.view(-1, 1, 1, 1, 1) / 1000

    scheduler = served_scheduler()
    scheduler.set_timesteps(STUDENT_STEPS)
    latents = noise
    for timestep in scheduler.timesteps:
        latents = scheduler.step(
            velocity(latents, timestep.expand(1).float()), timestep, latents, return_dict=False
        )[0]
    assert torch.allclose(latents, sample(velocity, noise, STUDENT_STEPS), atol=1e-5)


def test_the_teachers_sigmas_hold_the_students():
    teacher, _ = grid(TEACHER_STEPS)
    student, timesteps = grid(STUDENT_STEPS)
    assert student == pytest.approx(teacher[:: TEACHER_STEPS // STUDENT_STEPS])
    assert student[-1] == 0
    assert timesteps == sorted(timesteps, reverse=True)


def test_guidance_moves_away_from_the_empty_prompt():
    def denoiser(latents, timesteps, embeddings, return_dict):
        return (embeddings.mean((1, 2)).view(-1, 1, 1, 1, 1) + 0 * latents,)

    latents, text, empty = torch.zeros(2, 1, 1, 1, 1), torch.full((2, 3, 4), 2.0), torch.zeros(1, 3, 4)
    assert guided(denoiser, text, empty, 3.0)(latents, torch.zeros(2)).flatten().tolist() == [6.0, 6.0]
    assert guided(denoiser, text, empty, 1)(latents, torch.zeros(2)).flatten().tolist() == [2.0, 2.0]


def test_tokenizer_reads_any_text_within_its_length(tokenizer):
    tokens = tokenize(tokenizer, ["a girl", "", "zxqv ドラゴン 🐉 " * 60])
    assert tokens.shape == (3, 64)
    assert int(tokens.max()) < len(tokenizer)
    assert tokens[1].tolist() == [1] + [0] * 63
    assert tokens[2, -1] == 1


def test_embeddings_of_padding_are_zero(tokenizer):
    encoder = build_text_encoder(TINY, tokenizer).eval()
    with torch.no_grad():
        embeddings = embed(encoder, tokenize(tokenizer, ["a cat"]).long())
    length = int((tokenize(tokenizer, ["a cat"]) != 0).sum())
    assert embeddings[0, :length].abs().sum() > 0
    assert embeddings[0, length:].abs().sum() == 0


def test_muon_moves_every_direction_equally():
    parameter = torch.nn.Parameter(torch.zeros(8, 32))
    parameter.grad = (
        torch.randn(8, 32, generator=torch.Generator().manual_seed(0)) * torch.logspace(-2, 0, 8)[:, None]
    )
    Muon([parameter]).step(1.0)
    scales = torch.linalg.svdvals(parameter.detach())
    assert scales.max() / scales.min() < 3
    assert torch.linalg.svdvals(parameter.grad).max() / torch.linalg.svdvals(parameter.grad).min() > 20


def test_a_learner_learns_and_keeps_an_average():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.SiLU(), torch.nn.Linear(32, 1))
    x = torch.randn(256, 32)
    y = x[:, :1] * x[:, 1:2]
    learner = Learner(Machine.start(), [model], 1e-2, average_over=10)
    losses = []
    for step in range(60):
        loss = (model(x) - y).square().mean()
        loss.backward()
        learner.step(ramp(step, step / 60, warm_up=5))
        losses.append(loss.item())
    learner.use_average()
    assert (model(x) - y).square().mean().item() < 0.5 * losses[0]


def test_a_broken_loss_stops_the_run():
    curve = Curve("loss")
    with pytest.raises(FloatingPointError, match="nan at step 3"):
        curve.add(3, float("nan"))


def test_curves_and_sheets_are_pngs(tmp_path):
    curve = Curve("loss")
    curve.add(0, 1.0)
    curve.add(10, 0.1)
    curve.save(tmp_path / "curve.png")
    save_sheet(tmp_path / "sheet.png", [torch.zeros(3, 3, 16, 24, dtype=torch.uint8)], ["a cat"])
    for name in ("curve.png", "sheet.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def soft_frames() -> torch.Tensor:
    rough = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    return F.interpolate(rough, scale_factor=6, mode="bicubic").clamp(0, 1)


@torch.no_grad()
def test_an_upscaler_begins_nearly_as_bilinear_interpolation():
    torch.manual_seed(0)
    small = soft_frames()
    bilinear = F.interpolate(small, scale_factor=CONFIG.scale, mode="bilinear")
    inner = (
        ...,
        slice(8, -8),
        slice(8, -8),
    )  # a convolution sees black beyond the frame, interpolation does not
    assert float((smooth_upscaler(CONFIG)(small) - bilinear)[inner].abs().max()) < 0.05


def test_squares_tell_a_repeated_pixel_from_a_smooth_frame():
    small = soft_frames()
    repeated, smooth = (F.interpolate(small, scale_factor=4, mode=mode) for mode in ("nearest", "bicubic"))
    assert squares(smooth, 4) < 1.5
    assert squares(repeated, 4) > 100
