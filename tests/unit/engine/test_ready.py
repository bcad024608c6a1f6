"""A fast path that a device refuses costs speed, never the engine; what is wrong with the files is still said."""

import shutil
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs

from anime_studio.core.errors import CheckpointError
from anime_studio.core.recipes import FASTWAN_3STEP, TINY_RANDOM
from anime_studio.engine import engine as engine_module
from anime_studio.engine import ready
from anime_studio.engine.acceleration import PLAIN, Acceleration
from anime_studio.engine.decoding import StreamingDecoder
from anime_studio.engine.denoiser import PlainDenoiser
from anime_studio.engine.engine import Engine
from anime_studio.telemetry import ENGINE_ACCELERATION_REFUSED

FAST = Acceleration(decode_chunk=2)


def test_a_refused_fast_path_leaves_the_plain_one_and_a_line_in_the_log(monkeypatch, tiny_checkpoint):
    def decoder_here(vae: Any, acceleration: Acceleration) -> StreamingDecoder:
        if acceleration != PLAIN:  # as a card says for which a kernel was not built
            raise RuntimeError("CUDA error: no kernel image is available for execution on the device")
        return StreamingDecoder(vae, acceleration)

    monkeypatch.setattr(engine_module, "StreamingDecoder", decoder_here)
    monkeypatch.setattr(ready, "levers_for", lambda *_: FAST)

    with capture_logs() as lines:
        engine = ready.ready_engine(TINY_RANDOM, tiny_checkpoint, device="cpu", accelerate=True)

    assert engine.text.encode("a cat").isfinite().all()
    assert [line["event"] for line in lines] == [ENGINE_ACCELERATION_REFUSED]
    assert "no kernel image" in lines[0]["detail"]


def test_a_fast_path_that_draws_nan_is_refused_before_any_job(monkeypatch, tiny_checkpoint):
    def warmed(engine: Engine) -> Engine:
        if not isinstance(engine.denoiser, PlainDenoiser):
            engine.components.transformer.proj_out.bias.data.fill_(float("nan"))
        engine.warm_up()
        return engine

    monkeypatch.setattr(ready, "levers_for", lambda *_: Acceleration(fused_denoiser=True))
    monkeypatch.setattr(ready, "_warm", warmed)

    with capture_logs() as lines:
        engine = ready.ready_engine(TINY_RANDOM, tiny_checkpoint, device="cpu", accelerate=True)

    assert isinstance(engine.denoiser, PlainDenoiser)
    assert "NaN" in lines[0]["detail"]


def test_a_broken_file_is_no_reason_to_try_again(monkeypatch, tiny_checkpoint, tmp_path):
    monkeypatch.setattr(ready, "levers_for", lambda *_: FAST)
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "broken")
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])

    with capture_logs() as lines, pytest.raises(CheckpointError, match="vae"):
        ready.ready_engine(TINY_RANDOM, folder, device="cpu", accelerate=True)

    assert lines == []


def test_a_cpu_has_no_fast_paths():
    assert ready.levers_for(FASTWAN_3STEP, torch.device("cpu")) == PLAIN
