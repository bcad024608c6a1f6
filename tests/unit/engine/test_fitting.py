"""Frames get the shape of the clip without being stretched, and no more pixels than it has."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from anime_studio.checkpoints.prepared import upscales
from anime_studio.checkpoints.store import Checkpoint
from anime_studio.core.errors import CheckpointError
from anime_studio.core.recipes import TINY_RANDOM, WAN_50STEP
from anime_studio.engine.fitting import fitted
from support.engine import Reports, checkpoint_in, spec_of, tiny_engine
from support.upscaler import add_upscaler

OFFERED = TINY_RANDOM.with_upscaler()


def test_frames_four_times_wans_size_are_cropped_and_reduced_to_1080p() -> None:
    spec = spec_of(WAN_50STEP.with_upscaler(), resolution="1080p", duration=1.0)
    rows = torch.linspace(-1, 1, 4 * 480).view(1, 1, -1, 1).expand(1, 3, -1, 4 * 832)

    (group,) = fitted([rows.half()], spec)

    assert group.shape == (1, 3, 1080, 1920)
    column = group[0, 0, :, 960]
    step = 2 / (4 * 480 - 1) * 1872 / 1080
    assert torch.allclose(column.diff()[50:-50].mean(), torch.tensor(step), rtol=0.01)
    assert abs(float(column[540] + column[539])) < 1e-3, "as many rows above as below"


def test_frames_of_480p_and_smaller_ones_are_left_alone() -> None:
    group = torch.rand(2, 3, 4 * 32, 4 * 48)
    (same,) = fitted([group], spec_of(OFFERED))
    assert same is group
    (cropped,) = fitted([group], spec_of(OFFERED, resolution="1080p"))
    assert torch.equal(cropped, group[:, :, 8:-12])


def test_nan_stays_nan() -> None:
    frame = torch.zeros(1, 3, 4 * 480, 4 * 832)
    frame[0, 0, 900, 900] = float("nan")
    (group,) = fitted([frame], spec_of(WAN_50STEP.with_upscaler(), resolution="1080p", duration=1.0))
    assert torch.isnan(group).any()


@pytest.mark.parametrize(("resolution", "size"), [("1080p", (1920, 1080)), ("1080p-portrait", (1080, 1920))])
def test_a_clip_has_the_size_that_was_asked_for(
    checkpoint: Checkpoint, tmp_path: Path, resolution: str, size: tuple[int, int]
) -> None:
    add_upscaler(checkpoint.folder)
    engine = tiny_engine(checkpoint.folder)
    spec = spec_of(OFFERED, resolution=resolution)

    rendered = engine.render(spec, tmp_path, Reports())

    assert (rendered.width, rendered.height) == size
    assert rendered.upscale_s is not None
    with av.open(rendered.video) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert [frame.shape for frame in shown] == [(size[1], size[0], 3)] * spec.num_frames
    # The first frame, box-averaged to the upscaled size, is the crop of what the upscaler gave.
    latents = engine.denoise(spec, *engine.embed(spec), lambda *_: None)
    large = next(iter(engine.frames(latents)))[0].astype(float)
    kept = large[8:-12] if size[0] > size[1] else large[:, 8:-12]
    factor = size[0] // kept.shape[1]
    small = shown[0].reshape(kept.shape[0], factor, kept.shape[1], factor, 3).mean(axis=(1, 3))
    assert np.corrcoef(small.ravel(), kept.ravel())[0, 1] > 0.9


def test_an_engine_without_an_upscaler_refuses_1080p(engine, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="1080p needs an upscaler"):
        engine.render(spec_of(OFFERED, resolution="1080p"), tmp_path, Reports())


def test_a_laptop_knows_from_the_index(tmp_path: Path, tiny_checkpoint: Path) -> None:
    assert not upscales(TINY_RANDOM, tmp_path)
    found = checkpoint_in(tmp_path, tiny_checkpoint)
    assert not upscales(TINY_RANDOM, tmp_path)
    add_upscaler(found.folder)
    assert upscales(TINY_RANDOM, tmp_path)
