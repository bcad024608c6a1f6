"""From a spec to two finished files, or to a clear error and no file at all."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from anime_studio import weights
from anime_studio.core.errors import (
    BadFramesError,
    DiskFullError,
    EngineError,
    JobCancelledError,
    OutOfMemoryError,
)
from anime_studio.core.recipes import DEMO, TINY_RANDOM
from anime_studio.engine.acceleration import Acceleration, TextWeights
from anime_studio.engine.engine import Engine, load_engine
from anime_studio.engine.tiny import write_tiny_random
from common.schemas import Stage
from support.engine import Reports, spec_of


def left_in(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_a_clip_plays_as_the_spec_says(engine, tmp_path):
    spec = spec_of(prompt="secret words")

    rendered = engine.render(spec, tmp_path, Reports())

    with av.open(rendered.video) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height) == (832, 480)
        assert stream.average_rate == 16
        assert [frame.time for frame in frames] == [float(Fraction(i, 16)) for i in range(spec.num_frames)]
        assert container.metadata["comment"] == "anime-studio recipe=tiny-random revision=random-0 seed=7"
    content = rendered.video.read_bytes()
    assert content.find(b"moov") < content.find(b"mdat")
    assert b"secret" not in content
    with Image.open(rendered.poster) as poster:
        assert (poster.format, poster.size) == ("JPEG", (832, 480))
    assert min(rendered.text_s, rendered.denoise_s, rendered.decode_s) > 0


def test_portrait_is_drawn_upright(engine, tmp_path):
    rendered = engine.render(spec_of(resolution="480p-portrait"), tmp_path, Reports())

    with av.open(rendered.video) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (480, 832)


def test_each_stage_and_step_is_reported(engine, tmp_path):
    reports = Reports()

    engine.render(spec_of(num_inference_steps=4), tmp_path, reports)

    assert reports.seen == [
        (Stage.TEXT, 0, 0),
        *[(Stage.DENOISE, step, 4) for step in range(5)],
        *[(Stage.DECODE, drawn, 9) for drawn in (0, 1, 5, 9)],
    ]


@pytest.mark.parametrize(("stage", "step"), [(Stage.TEXT, 0), (Stage.DENOISE, 1), (Stage.DECODE, 5)])
def test_a_report_that_raises_stops_the_clip_and_leaves_no_file(engine, tmp_path, stage, step):
    stop = JobCancelledError("stop")

    with pytest.raises(JobCancelledError) as raised:
        engine.render(spec_of(), tmp_path, Reports(stop, (stage, step)))

    assert raised.value is stop
    assert left_in(tmp_path) == []


def test_the_engine_draws_on_after_a_stopped_clip(engine, tmp_path):
    with pytest.raises(JobCancelledError):
        engine.render(spec_of(), tmp_path, Reports(JobCancelledError("stop"), (Stage.DECODE, 5)))

    assert engine.render(spec_of(), tmp_path, Reports()).num_frames == 9


class Spoilt:
    """An engine whose latents or frames are replaced."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.engine, self._patch = engine, monkeypatch

    def latents(self, value: float) -> None:
        self._patch.setattr(
            self.engine.components.transformer, "forward", lambda hidden_states, **_: (hidden_states * value,)
        )

    def frames(self, value: float) -> None:
        self._patch.setattr(
            self.engine.decoder,
            "decode",
            lambda _: iter([torch.full((n, 3, 32, 48), value) for n in (1, 4, 4)]),
        )


@pytest.fixture
def spoilt(engine, monkeypatch) -> Spoilt:
    return Spoilt(engine, monkeypatch)


def test_nan_latents_are_never_decoded(spoilt, tmp_path):
    spoilt.latents(float("nan"))

    with pytest.raises(BadFramesError, match="seed 7"):
        spoilt.engine.render(spec_of(), tmp_path, Reports())


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0, float("nan"), float("inf")])
def test_black_constant_or_nan_frames_are_never_a_clip(spoilt, tmp_path, value):
    spoilt.frames(value)

    with pytest.raises(BadFramesError):
        spoilt.engine.render(spec_of(), tmp_path, Reports())

    assert left_in(tmp_path) == []


def test_a_full_disk_is_said_and_leaves_no_file(engine, tmp_path):
    (tmp_path / "clip.mp4").symlink_to("/dev/full")  # every write to it fails with ENOSPC

    with pytest.raises(DiskFullError, match="no room left while writing"):
        engine.render(spec_of(), tmp_path, Reports())

    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), OutOfMemoryError),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried"), OutOfMemoryError),
        (RuntimeError("expected scalar type"), EngineError),
    ],
)
def test_what_torch_raises_becomes_ours(engine, tmp_path, monkeypatch, raised, expected):
    def fail(**_: object) -> None:
        raise raised

    monkeypatch.setattr(engine.components.transformer, "forward", fail)

    with pytest.raises(expected, match=str(raised)[:12].replace("[", r"\[")):
        engine.render(spec_of(), tmp_path, Reports())


def test_warm_up_changes_no_clip(engine):
    spec = spec_of()
    before = engine.denoise(spec, *engine.embed(spec), Reports())
    engine.warm_up()

    assert torch.equal(before, engine.denoise(spec, *engine.embed(spec), Reports()))


@pytest.mark.parametrize("part", ["transformer.proj_out", "vae.decoder.conv_out"])
def test_warming_up_refuses_a_device_that_draws_nan(tiny_checkpoint, part):
    engine = load_engine(TINY_RANDOM, tiny_checkpoint, device="cpu")
    name, _, rest = part.partition(".")
    getattr(engine.components, name).get_submodule(rest).bias.data.fill_(float("nan"))

    with pytest.raises(BadFramesError, match="warming up"):
        engine.warm_up()


def test_embeddings_come_from_disk_the_second_time_and_damage_is_mended(tiny_checkpoint, tmp_path):
    def embed(prompt: str = "a cat") -> tuple[torch.Tensor, Engine]:
        engine = load_engine(TINY_RANDOM, tiny_checkpoint, device="cpu", cache_dir=tmp_path)
        return engine.embed(spec_of(prompt=prompt))[0], engine

    computed, _ = embed()
    (kept,) = tmp_path.iterdir()
    _, engine = embed()
    engine.components.text_encoder.forward = None  # only the cache can answer now
    assert torch.equal(engine.embed(spec_of(prompt="a  cat "))[0], computed)

    kept.write_bytes(b"damaged")
    assert torch.equal(embed()[0], computed)
    assert kept.stat().st_size > 100


@pytest.mark.parametrize("with_manifest", [True, False])
def test_embeddings_of_replaced_weights_are_not_used(tmp_path, with_manifest):
    def embed(seed: int, cache: Path | None) -> torch.Tensor:
        folder = write_tiny_random(tmp_path / str(seed) / "same-name", seed=seed)
        if not with_manifest:
            (folder / weights.MANIFEST).unlink()
        return load_engine(TINY_RANDOM, folder, device="cpu", cache_dir=cache).embed(spec_of())[0]

    before, after = embed(0, tmp_path / "cache"), embed(1, tmp_path / "cache")

    assert not torch.equal(before, after)
    assert torch.equal(after, embed(1, None))


def test_the_shipped_checkpoint_draws_what_was_asked(tmp_path):
    checkpoint = weights.locate(DEMO, tmp_path)
    engine = load_engine(DEMO, checkpoint.folder, device="cpu")

    night, day = (
        engine.render(spec_of(DEMO, prompt=prompt, duration=5.0, num_inference_steps=4), folder, Reports())
        for prompt, folder in (
            ("empty scenery, on a beach, late at night", _made(tmp_path / "night")),
            ("empty scenery, on a beach, during the day, blue sky", _made(tmp_path / "day")),
        )
    )

    assert _mean_blue_and_light(day)[1] > 1.5 * _mean_blue_and_light(night)[1]


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _mean_blue_and_light(rendered) -> tuple[float, float]:
    with av.open(rendered.video) as container:
        pixels = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    return float(pixels[..., 2].mean()), float(pixels.mean())


def test_an_accelerated_engine_draws_nearly_the_same_clip(engine, tiny_checkpoint):
    levers = Acceleration(fused_denoiser=True, text_embedding_on_cpu=True, text_weights=TextWeights.INT8)
    fast = load_engine(TINY_RANDOM, tiny_checkpoint, device="cpu", acceleration=levers)
    spec = spec_of()
    plain = engine.denoise(spec, *engine.embed(spec), Reports())

    ours = fast.denoise(spec, *fast.embed(spec), Reports())

    assert 0 < float((ours - plain).norm() / plain.norm()) < 0.02


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_bad_pixel_spoils_the_clip(engine, monkeypatch, tmp_path, value):
    frames = torch.rand(9, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    frames[4, 1, 7, 9] = value
    monkeypatch.setattr(engine.decoder, "decode", lambda _: iter(frames.split([1, 4, 4])))

    with pytest.raises(BadFramesError, match="NaN or infinity"):
        engine.render(spec_of(), tmp_path, Reports())

    assert left_in(tmp_path) == []
