"""A checkpoint's upscaler makes its frames larger, is read with care, and has its own seconds."""

import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from safetensors.torch import load_file, save_file

from anime_studio.checkpoints.pipeline_files import needed, require_complete
from anime_studio.checkpoints.store import Checkpoint
from anime_studio.core.errors import CheckpointError
from anime_studio.core.recipes import TINY_RANDOM
from anime_studio.engine.acceleration import Acceleration
from anime_studio.engine.upscaling import BATCH, Upscaler, UpscalerConfig, UpscalingStage, enlarged
from support.engine import Reports, cut, spec_of, tiny_engine
from support.upscaler import CONFIG, WEIGHTS, add_upscaler


@pytest.fixture
def folder(checkpoint: Checkpoint) -> Path:
    """A checkpoint with an upscaler of random weights."""
    add_upscaler(checkpoint.folder)
    return checkpoint.folder


def test_frames_become_what_the_layers_written_out_say() -> None:
    torch.manual_seed(0)
    upscaler = Upscaler(UpscalerConfig(**CONFIG)).eval()
    small = torch.rand(3, 3, 6, 10)
    weights = upscaler.state_dict()
    x = small
    for index in range(0, len(upscaler.body), 2):
        x = F.conv2d(x, weights[f"body.{index}.weight"], weights[f"body.{index}.bias"], padding=1)
        if index + 1 < len(upscaler.body):
            slope = weights[f"body.{index + 1}.weight"].view(1, -1, 1, 1)
            x = torch.where(x > 0, x, slope * x)
    expected = F.pixel_shuffle(x, 4) + F.interpolate(small, scale_factor=4, mode="nearest")

    stage = UpscalingStage(upscaler)
    groups = list(stage.frames(torch.split(small * 2 - 1, 1)))

    assert torch.allclose(torch.cat(groups) / 2 + 0.5, expected, atol=1e-5)
    assert stage.seconds > 0


@pytest.mark.parametrize("sizes", [[1, 8, 8, 8], [12, 12, 1], [9, 9], [5]])
def test_groups_of_any_size_become_batches_in_order(sizes: list[int]) -> None:
    torch.manual_seed(2)
    upscaler = Upscaler(UpscalerConfig(**CONFIG)).eval()
    small = torch.rand(sum(sizes), 3, 6, 10) * 2 - 1

    batches = list(UpscalingStage(upscaler).frames(torch.split(small, sizes)))

    whole, rest = divmod(len(small), BATCH)
    assert [len(batch) for batch in batches] == [BATCH] * whole + [rest] * (rest > 0)
    assert torch.allclose(torch.cat(batches), enlarged(upscaler, small), atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on a CPU needs g++")
def test_compiled_it_gives_the_same_frames_and_sees_one_shape() -> None:
    torch.manual_seed(3)
    upscaler = Upscaler(UpscalerConfig(**CONFIG)).eval().requires_grad_(False)
    compiled = UpscalingStage(upscaler, Acceleration(compile_upscaler=True))
    small = torch.rand(BATCH + 2, 3, 6, 10) * 2 - 1

    first = torch.cat(list(compiled.frames([small])))
    with torch.compiler.set_stance("fail_on_recompile"):
        shorter = torch.cat(list(compiled.frames([small[:1], small[1:4]])))

    assert torch.allclose(first, enlarged(upscaler, small), atol=1e-4)
    assert torch.allclose(shorter, first[:4], atol=1e-6)


def test_a_clip_goes_through_it_and_says_its_seconds(folder: Path, tmp_path: Path) -> None:
    with_it = tiny_engine(folder)
    shown = tmp_path / "shown"
    shown.mkdir()

    rendered = with_it.render(spec_of(), shown, Reports())

    assert rendered.upscale_s is not None
    assert rendered.upscale_s > 0
    assert rendered.decode_s > 0
    with av.open(rendered.video) as container:
        assert len(list(container.decode(video=0))) == rendered.num_frames
    latents = with_it.denoise(spec_of(), *with_it.embed(spec_of()), lambda *_: None)
    large = np.concatenate(list(with_it.frames(latents)))
    small = torch.cat(list(with_it.decoder.decode(latents)))
    assert large.shape[1:3] == (4 * small.shape[2], 4 * small.shape[3])


def test_a_clip_of_the_models_own_size_does_without_it(folder: Path, tmp_path: Path) -> None:
    engine = tiny_engine(folder)
    own_size = spec_of().model_copy(update={"width": 48, "height": 32})

    rendered = engine.render(own_size, tmp_path, Reports())

    assert rendered.upscale_s is None
    with av.open(rendered.video) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (48, 32)


def test_without_one_a_clip_has_no_such_seconds(engine, tmp_path: Path) -> None:
    assert engine.render(spec_of(), tmp_path, Reports()).upscale_s is None


def test_nan_in_a_small_frame_stays_nan() -> None:
    stage = UpscalingStage(Upscaler(UpscalerConfig(**CONFIG)).eval())
    frame = torch.zeros(1, 3, 6, 10)
    frame[0, 0, 2, 2] = float("nan")
    assert torch.isnan(next(iter(stage.frames([frame])))).any()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"features": 0}, "features is 0"),
        ({"scale": "4"}, "scale is '4'"),
        ({"convolutions": True}, "convolutions is True"),
        ({"convolutions": 3}, WEIGHTS),
    ],
)
def test_a_wrong_configuration_is_refused_by_name(
    folder: Path, change: dict[str, object], named: str
) -> None:
    (folder / "upscaler" / "config.json").write_text(json.dumps({**CONFIG, **change}))
    with pytest.raises(CheckpointError, match=named):
        tiny_engine(folder)


def test_weights_that_are_cut_missing_or_not_finite_are_refused(folder: Path) -> None:
    path = folder / "upscaler" / WEIGHTS
    whole = path.read_bytes()
    weights = load_file(path)
    weights["body.0.bias"][0] = float("nan")
    save_file(weights, path)
    with pytest.raises(CheckpointError, match=r"body\.0\.bias"):
        tiny_engine(folder)
    path.write_bytes(whole)
    cut(path)
    with pytest.raises(CheckpointError, match=WEIGHTS):
        tiny_engine(folder)
    with pytest.raises(CheckpointError, match=WEIGHTS):
        require_complete(folder, TINY_RANDOM)
    path.unlink()
    with pytest.raises(CheckpointError, match=WEIGHTS):
        require_complete(folder, TINY_RANDOM)


def test_an_index_that_names_another_kind_is_refused(folder: Path) -> None:
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("SRVGGNetCompact", "RRDBNet"))
    with pytest.raises(CheckpointError, match="RRDBNet"):
        tiny_engine(folder)


def test_a_fetch_asks_for_it_where_a_repository_has_it(folder: Path) -> None:
    listed = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    of_upscaler = {"upscaler/config.json", f"upscaler/{WEIGHTS}"}

    assert of_upscaler <= needed(listed, TINY_RANDOM, folder)
    assert not of_upscaler & needed(listed - of_upscaler, TINY_RANDOM, folder)
    with pytest.raises(CheckpointError, match=r"upscaler/config\.json is missing"):
        needed(listed - {"upscaler/config.json"}, TINY_RANDOM, folder)
