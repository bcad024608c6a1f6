"""From a spec to two finished files, or to a clear error and no file at all."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from anime_studio.checkpoints import store
from anime_studio.core.errors import (
    BadFramesError,
    DiskFullError,
    EngineError,
    JobCancelledError,
    OutOfMemoryError,
)
from anime_studio.core.recipes import DEMO, TINY_RANDOM
from anime_studio.engine.acceleration import Acceleration
from anime_studio.engine.fallback import PathRefusedError
from anime_studio.engine.startup import start_engine, warm_up
from common.schemas import Stage
from support.engine import Reports, spec_of, tiny_engine


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
        assert container.metadata["comment"] == (
            "anime-studio recipe=tiny-random revision=random-0 decoder=full seed=7"
        )
    content = rendered.video.read_bytes()
    assert content.find(b"moov") < content.find(b"mdat")
    assert b"secret" not in content
    with Image.open(rendered.poster) as poster:
        assert (poster.format, poster.size) == ("JPEG", (832, 480))
    assert min(rendered.text_s, rendered.denoise_s, rendered.decode_s) > 0


def test_portrait_is_rendered_upright(engine, tmp_path):
    rendered = engine.render(spec_of(resolution="480p-portrait"), tmp_path, Reports())

    with av.open(rendered.video) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (480, 832)


def test_each_stage_and_step_is_reported(engine, tmp_path):
    reports = Reports()

    engine.render(spec_of(num_inference_steps=4), tmp_path, reports)

    assert reports.seen == [
        (Stage.TEXT, 0, 0),
        *[(Stage.DENOISE, step, 4) for step in range(5)],
        *[(Stage.DECODE, frames, 9) for frames in (0, 1, 5, 9)],
    ]


@pytest.mark.parametrize(("stage", "step"), [(Stage.TEXT, 0), (Stage.DENOISE, 1), (Stage.DECODE, 5)])
def test_a_report_that_raises_stops_the_clip_and_leaves_no_file(engine, tmp_path, stage, step):
    stop = JobCancelledError("stop")

    with pytest.raises(JobCancelledError) as raised:
        engine.render(spec_of(), tmp_path, Reports(stop, (stage, step)))

    assert raised.value is stop
    assert left_in(tmp_path) == []


def test_the_engine_renders_after_a_stopped_clip(engine, tmp_path):
    with pytest.raises(JobCancelledError):
        engine.render(spec_of(), tmp_path, Reports(JobCancelledError("stop"), (Stage.DECODE, 5)))

    assert engine.render(spec_of(), tmp_path, Reports()).num_frames == 9


def test_nan_latents_are_never_decoded(engine, monkeypatch, tmp_path):
    nan = float("nan")
    monkeypatch.setattr(
        engine.components.transformer, "forward", lambda hidden_states, **_: (hidden_states * nan,)
    )

    with pytest.raises(BadFramesError, match="seed 7"):
        engine.render(spec_of(), tmp_path, Reports())


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0, float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("one_pixel", [True, False])
def test_frames_that_show_nothing_or_have_one_bad_pixel_are_never_a_clip(
    engine, monkeypatch, tmp_path, value, one_pixel
):
    frames = torch.rand(9, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    where = (4, 1, 7, 9) if one_pixel else slice(None)
    frames[where] = value
    monkeypatch.setattr(engine.decoder, "decode", lambda _: iter(frames.split([1, 4, 4])))

    if one_pixel and abs(value) <= 1:
        assert engine.render(spec_of(), tmp_path, Reports()).num_frames == 9
        return
    with pytest.raises(BadFramesError):
        engine.render(spec_of(), tmp_path, Reports())
    assert left_in(tmp_path) == []


def test_a_full_disk_is_said_and_leaves_no_file(engine, tmp_path):
    (tmp_path / "clip.mp4").symlink_to("/dev/full")  # every write to it fails with ENOSPC

    with pytest.raises(DiskFullError, match=r"no room left while writing .*; free some space and submit"):
        engine.render(spec_of(), tmp_path, Reports())

    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), OutOfMemoryError),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried"), OutOfMemoryError),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
            OutOfMemoryError,
        ),
        (OSError(12, "Cannot allocate memory"), OutOfMemoryError),
        (MemoryError("std::bad_alloc"), OutOfMemoryError),
        (RuntimeError("CUDA error: out of memory"), OutOfMemoryError),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), OutOfMemoryError),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), OutOfMemoryError),
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
    warm_up(engine)

    assert torch.equal(before, engine.denoise(spec, *engine.embed(spec), Reports()))


@pytest.mark.parametrize("part", ["transformer.proj_out", "vae.decoder.conv_out"])
def test_warming_up_refuses_a_device_that_gives_nan(tiny_checkpoint, part):
    engine = tiny_engine(tiny_checkpoint)
    name, _, rest = part.partition(".")
    getattr(engine.components, name).get_submodule(rest).bias.data.fill_(float("nan"))

    with pytest.raises(PathRefusedError, match="BadFramesError: warming up"):
        warm_up(engine)


def test_only_the_prompts_own_tokens_are_encoded_and_they_are_as_with_padding(engine):
    text = engine.text
    lengths: list[int] = []
    embedding = engine.components.text_encoder.encoder.embed_tokens
    seen = embedding.register_forward_hook(lambda _, tokens, __: lengths.append(tokens[0].shape[1]))
    ours = text.compute("a cat")
    seen.remove()

    reads = TINY_RANDOM.max_sequence_length
    padded = engine.components.tokenizer(
        ["a cat"], padding="max_length", max_length=reads, return_attention_mask=True, return_tensors="pt"
    )
    mask = padded.attention_mask
    with torch.inference_mode():
        theirs = engine.components.text_encoder(padded.input_ids, mask).last_hidden_state * mask[..., None]

    assert lengths == [text.count_tokens("a cat")] == [int(mask.sum())]
    assert ours.shape == theirs.shape and not ours[:, lengths[0] :].any()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_a_prompt_longer_than_the_model_reads_is_noted(engine, tmp_path):
    reads = TINY_RANDOM.max_sequence_length

    short = engine.render(spec_of(prompt="a cat"), tmp_path, Reports()).notes
    (note,) = engine.render(spec_of(prompt="cat " * reads), tmp_path, Reports()).notes

    assert short == ()
    assert note.code == "prompt_cut" and f"the model reads {reads}" in note.detail


@pytest.mark.slow
def test_the_shipped_checkpoint_renders_what_was_asked(tmp_path):
    engine = start_engine(DEMO, store.locate(DEMO, tmp_path), device="cpu")

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


def test_an_accelerated_engine_renders_nearly_the_same_clip(engine, tiny_checkpoint):
    options = Acceleration(fused_denoiser=True)
    fast = tiny_engine(tiny_checkpoint, options)
    spec = spec_of()
    plain = engine.denoise(spec, *engine.embed(spec), Reports())

    def of_diffusers(*_: object, **__: object) -> None:
        raise AssertionError("the plain forward ran: the options did nothing")

    fast.components.transformer.forward = of_diffusers  # in float32 both give the same numbers
    ours = fast.denoise(spec, *fast.embed(spec), Reports())

    assert float((ours - plain).norm() / plain.norm()) < 0.02
