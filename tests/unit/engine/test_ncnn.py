"""An upscaler that ncnn stores becomes ours number by number; anything else is refused."""

from collections.abc import Callable

import pytest
import torch

from anime_studio.core.errors import CheckpointError
from anime_studio.engine.loading.ncnn import convert
from anime_studio.engine.upscaling import Upscaler, UpscalerConfig
from support.ncnn import FLOAT16, as_ncnn

# Five features and a scale of 3: 135 weights of the first convolution leave two bytes to fill up.
CONFIG = UpscalerConfig(features=5, convolutions=2, scale=3)
Change = Callable[[bytes, bytes], tuple[bytes, bytes]]


@pytest.fixture
def upscaler() -> Upscaler:
    torch.manual_seed(4)
    return Upscaler(CONFIG).eval().requires_grad_(False)


def test_every_number_comes_to_its_place(upscaler: Upscaler) -> None:
    converted = convert(*as_ncnn(upscaler))

    assert converted.config == CONFIG
    given = upscaler.state_dict()
    assert converted.tensors.keys() == given.keys()
    for name, tensor in converted.tensors.items():
        kept = torch.float16 if tensor.dim() == 4 else torch.float32
        assert tensor.dtype is kept
        assert torch.equal(tensor, given[name].to(kept))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda network, weights: (network, weights[:-1]), "bytes are missing"),
        (lambda network, weights: (network, weights + b"\0"), "1 bytes are left over"),
        (
            lambda network, weights: (network, weights.replace(FLOAT16.to_bytes(4, "little"), bytes(4))),
            "not in float16",
        ),
        (lambda network, weights: (network.replace(b"PReLU p3", b"ReLU p3"), weights), "layers are others"),
        (lambda network, weights: (network.replace(b"1=3 4=1", b"1=5 4=2"), weights), "another convolution"),
        (lambda network, weights: (network.replace(b"6=135", b"6=136"), weights), "another convolution"),
        (lambda network, weights: (network.replace(b"repeated 0=1", b"repeated 0=2"), weights), "repeated"),
        (lambda network, weights: (network.replace(b"shuffled 0=3", b"shuffled 0=2"), weights), "repeated"),
        (lambda network, weights: (network.replace(b"7767517", b"7767518"), weights), "first two lines"),
        (lambda network, weights: (b"\xff" + network, weights), "no SRVGGNetCompact"),
        (lambda network, weights: (b"", weights), "no SRVGGNetCompact"),
    ],
)
def test_what_is_another_network_or_not_whole_is_refused(
    upscaler: Upscaler, change: Change, told: str
) -> None:
    with pytest.raises(CheckpointError, match=told):
        convert(*change(*as_ncnn(upscaler)))
