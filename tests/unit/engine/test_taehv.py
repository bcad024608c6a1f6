"""The tiny decoder gives what its published layers give one frame and one layer at a time."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)

from anime_studio.engine.decoder.taehv import Taehv, TaehvDecoder
from support.smaller_decoders import tiny_weights

CONFIG = SimpleNamespace(
    latents_mean=[0.1 * index for index in range(16)], latents_std=[1 + 0.1 * index for index in range(16)]
)
WEIGHTS = tiny_weights()


def plain(latents: torch.Tensor) -> torch.Tensor:
    """Layer after layer as they are published: repeat pixels, make frames, convolve; a zero frame before the first."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (CONFIG.latents_mean, CONFIG.latents_std))
    frames = [frame * std + mean for frame in latents[0].transpose(0, 1)]
    frames = [F.relu(conv(torch.tanh(frame / 3) * 3, "decoder.1")) for frame in frames]
    for first, count in ((3, 1), (9, 2), (15, 2)):
        for layer in range(first, first + 3):
            frames = [
                remember(frame, past, layer) for frame, past in zip(frames, [None, *frames], strict=False)
            ]
        frames = [F.interpolate(frame[None], scale_factor=2)[0] for frame in frames]
        frames = [part for frame in frames for part in conv(frame, f"decoder.{first + 4}.conv").chunk(count)]
        frames = [conv(frame, f"decoder.{first + 5}") for frame in frames]
    pictures = torch.stack([conv(F.relu(frame), "decoder.22") for frame in frames])
    return pictures[3:].clamp(0, 1) * 2 - 1


def conv(frame: torch.Tensor, name: str) -> torch.Tensor:
    weight = WEIGHTS[f"{name}.weight"]
    return F.conv2d(frame, weight, WEIGHTS.get(f"{name}.bias"), padding=weight.shape[-1] // 2)


def remember(frame: torch.Tensor, past: torch.Tensor | None, layer: int) -> torch.Tensor:
    seen = torch.cat([frame, torch.zeros_like(frame) if past is None else past])
    first = F.relu(conv(seen, f"decoder.{layer}.conv.0"))
    second = F.relu(conv(first, f"decoder.{layer}.conv.2"))
    return F.relu(conv(second, f"decoder.{layer}.conv.4") + frame)


def latents(frames: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(1, 16, frames, 2, 3, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model() -> Taehv:
    return Taehv(CONFIG, WEIGHTS).eval()


@pytest.mark.parametrize("frames", [1, 2, 4])
def test_every_pixel_is_what_the_published_layers_give(model, frames):
    given = latents(frames)

    decoded = torch.cat(list(TaehvDecoder(model).decode(given)))

    assert decoded.shape == (4 * frames - 3, 3, 16, 24)
    assert decoded.std() > 0.1  # neither grey nor black and white
    torch.testing.assert_close(decoded, plain(given), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("chunk", "groups"), [(1, [1, 4, 4, 4, 4]), (2, [5, 8, 4]), (9, [17])])
def test_chunks_change_no_frame(model, chunk, groups):
    given = latents(5)

    decoded = list(TaehvDecoder(model, chunk=chunk).decode(given))

    assert [len(group) for group in decoded] == groups
    torch.testing.assert_close(
        torch.cat(decoded), torch.cat(list(TaehvDecoder(model).decode(given))), rtol=0, atol=1e-5
    )


def test_a_clip_leaves_nothing_behind_for_the_next(model):
    decoder = TaehvDecoder(model)
    first = torch.cat(list(decoder.decode(latents(4))))
    next(iter(decoder.decode(latents(7, seed=2))))  # given up half way

    assert torch.equal(first, torch.cat(list(decoder.decode(latents(4)))))
