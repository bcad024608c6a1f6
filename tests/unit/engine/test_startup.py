"""A fast path that a device refuses costs speed, never the engine; what is wrong with the files is an error."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from structlog.testing import capture_logs

from anime_studio.checkpoints.manifest import Manifest
from anime_studio.checkpoints.store import Checkpoint
from anime_studio.core.errors import CheckpointError, EngineError
from anime_studio.core.recipes import FASTWAN_3STEP, TINY_RANDOM
from anime_studio.engine import engine as engine_module
from anime_studio.engine import startup
from anime_studio.engine.acceleration import PLAIN, Acceleration
from anime_studio.engine.decoder.streaming import StreamingDecoder
from anime_studio.engine.denoiser.model import PlainDenoiser
from anime_studio.engine.engine import Engine
from anime_studio.engine.loading.components import load_components
from anime_studio.engine.upscaling import Upscaler, UpscalingStage
from anime_studio.engine.weights_check import check_weights, holds_numbers
from anime_studio.telemetry import LogEvent
from common.schemas import Resolution
from support.engine import Reports, cut, spec_of, tiny_engine
from support.upscaler import add_upscaler

FAST = Acceleration(
    fused_denoiser=True, fp8_linears=True, compile_blocks=True, fused_norms=True, decode_chunk=2
)
"""On a CPU each of these would fail; the tests decide which does."""


class Device:
    """Stands for a device that refuses some fast paths: the parts that a start makes fail if their options hold one.

    What is made is the plain part, so that it works on this machine.
    """

    def __init__(self, *refused: str) -> None:
        self.refused = refused
        self.tried: list[Acceleration] = []

    def denoiser_for(self, transformer: Any, acceleration: Acceleration, _: None) -> PlainDenoiser:
        self.tried.append(acceleration)
        self._refuse(acceleration, "fused_denoiser", "fp8_linears", "compile_blocks")
        return PlainDenoiser(transformer)

    def decoder_for(self, vae: Any, acceleration: Acceleration) -> StreamingDecoder:
        self._refuse(acceleration, "fused_norms")
        return StreamingDecoder(vae, PLAIN)

    def _refuse(self, acceleration: Acceleration, *paths: str) -> None:
        for path in set(paths) & set(self.refused):
            if getattr(acceleration, path):
                raise RuntimeError("CUDA error: no kernel image is available for execution on the device")


def start_on(device: Device, monkeypatch, checkpoint: Path) -> Engine:
    monkeypatch.setattr(engine_module, "denoiser_for", device.denoiser_for)
    monkeypatch.setattr(engine_module, "decoder_for", device.decoder_for)
    monkeypatch.setattr(startup, "options_for", lambda *_: FAST)
    return startup.start_engine(TINY_RANDOM, Checkpoint.at(checkpoint), device="cpu")


@pytest.mark.parametrize(
    ("refused", "without", "kept"),
    [
        (["fused_norms"], ("fused_norms",), {"fp8_linears", "compile_blocks", "fused_denoiser"}),
        (["fp8_linears"], ("fp8_linears",), {"compile_blocks", "fused_denoiser", "fused_norms"}),
        (["compile_blocks"], ("compile_blocks",), {"fp8_linears", "fused_denoiser", "fused_norms"}),
        (["fp8_linears", "compile_blocks"], ("fused_denoiser",), {"fused_norms"}),
        (["compile_blocks", "fused_norms"], ("compile_blocks", "fused_norms"), {"fp8_linears", "fused_denoiser"}),
    ],
)  # fmt: skip
def test_a_device_that_refuses_one_fast_path_keeps_the_others(
    monkeypatch, tiny_checkpoint, tmp_path, refused, without, kept
):
    device = Device(*refused)

    with capture_logs() as lines:
        engine = start_on(device, monkeypatch, tiny_checkpoint)

    assert engine.refused == without
    options = device.tried[-1]
    assert {
        name
        for name in ("fp8_linears", "compile_blocks", "fused_denoiser", "fused_norms")
        if getattr(options, name)
    } == kept
    assert {line["event"] for line in lines} == {LogEvent.ENGINE_ACCELERATION_REFUSED}
    assert "no kernel image" in lines[0]["detail"] and lines[-1]["without"] == list(without)
    clip = engine.render(spec_of(), tmp_path, Reports())
    (note,) = clip.notes
    assert set(clip.paths) == kept | {"decode_chunk=2"}
    assert note.code == "paths_refused" and ", ".join(without) in note.detail


def refusing_to_compile(upscaler: Upscaler, acceleration: Acceleration, *, batch: int) -> UpscalingStage:
    """Stand for a device on which the compiled upscaler fails when it first runs."""
    stage = UpscalingStage(upscaler, PLAIN, batch=batch)
    if acceleration.compile_upscaler:
        upscaler.register_forward_hook(broken_kernel)
    return stage


def broken_kernel(*_: object) -> None:
    raise RuntimeError("CUDA error: no kernel image is available for execution on the device")


def test_an_upscaler_that_does_not_compile_costs_no_other_part_its_paths(monkeypatch, checkpoint):
    add_upscaler(checkpoint.folder)
    monkeypatch.setattr(engine_module, "denoiser_for", Device().denoiser_for)
    monkeypatch.setattr(engine_module, "decoder_for", Device().decoder_for)
    monkeypatch.setattr(engine_module, "UpscalingStage", refusing_to_compile)
    monkeypatch.setattr(startup, "options_for", lambda *_: replace(FAST, compile_upscaler=True))

    engine = startup.start_engine(TINY_RANDOM, checkpoint, device="cpu")

    assert engine.refused == ("compile_upscaler",)
    assert engine.acceleration == FAST


def test_an_upscaler_that_fails_without_fast_paths_too_is_named(monkeypatch, checkpoint):
    add_upscaler(checkpoint.folder)
    monkeypatch.setattr(Upscaler, "forward", broken_kernel)
    monkeypatch.setattr(engine_module, "denoiser_for", Device().denoiser_for)
    monkeypatch.setattr(engine_module, "decoder_for", Device().decoder_for)
    monkeypatch.setattr(startup, "options_for", lambda *_: replace(FAST, compile_upscaler=True))

    with pytest.raises(EngineError, match="the upscaler fails without fast paths too"):
        startup.start_engine(TINY_RANDOM, checkpoint, device="cpu")


def test_an_upscaler_that_no_clip_of_the_recipe_needs_is_not_warmed_up(monkeypatch, checkpoint):
    add_upscaler(checkpoint.folder)
    monkeypatch.setattr(Upscaler, "forward", broken_kernel)
    sizes = {Resolution.P480: Resolution.P480.size}  # what the model draws is what a caller gets
    recipe = replace(TINY_RANDOM, native_sizes=sizes, max_frames=TINY_RANDOM.min_frames)

    startup.start_engine(recipe, checkpoint, device="cpu")

    for needs_it in (TINY_RANDOM, recipe.with_upscaler()):
        with pytest.raises(EngineError, match="the upscaler fails"):
            startup.start_engine(needs_it, checkpoint, device="cpu")


def test_a_part_that_fails_without_fast_paths_too_ends_the_start(monkeypatch, tiny_checkpoint):
    def broken(*_: object) -> None:
        raise RuntimeError("unspecified launch failure")

    monkeypatch.setattr(engine_module, "decoder_for", broken)
    monkeypatch.setattr(startup, "options_for", lambda *_: FAST)

    with pytest.raises(EngineError, match=r"the decoder fails without fast paths too.*launch failure"):
        startup.start_engine(TINY_RANDOM, Checkpoint.at(tiny_checkpoint), device="cpu")


def test_a_fast_path_that_gives_nan_is_refused_before_any_job(monkeypatch, tiny_checkpoint):
    def with_nan(transformer: Any, acceleration: Acceleration, _: None) -> PlainDenoiser:
        if acceleration.fp8_linears:
            transformer.proj_out.register_forward_hook(lambda *_: torch.full_like(_[2], torch.nan))
        return PlainDenoiser(transformer)

    monkeypatch.setattr(engine_module, "denoiser_for", with_nan)
    monkeypatch.setattr(engine_module, "decoder_for", Device().decoder_for)
    monkeypatch.setattr(startup, "options_for", lambda *_: FAST)

    with capture_logs() as lines:
        engine = startup.start_engine(TINY_RANDOM, Checkpoint.at(tiny_checkpoint), device="cpu")

    assert engine.refused == ("fp8_linears",)
    assert "NaN" in lines[0]["detail"]


def test_lack_of_memory_while_warming_up_is_tried_again_in_smaller_chunks(monkeypatch, tiny_checkpoint):
    def greedy(vae: Any, acceleration: Acceleration) -> StreamingDecoder:
        if acceleration.decode_chunk > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return StreamingDecoder(vae, PLAIN)

    monkeypatch.setattr(engine_module, "denoiser_for", Device().denoiser_for)
    monkeypatch.setattr(engine_module, "decoder_for", greedy)
    monkeypatch.setattr(startup, "options_for", lambda *_: FAST)

    engine = startup.start_engine(TINY_RANDOM, Checkpoint.at(tiny_checkpoint), device="cpu")

    assert engine.refused == ("decode_chunk",)


@pytest.mark.parametrize("part", ["text_encoder", "transformer", "vae"])
def test_weights_of_nan_are_told_at_the_start_by_part_and_name(checkpoint, part):
    (path,) = (checkpoint.folder / part).glob("*.safetensors")
    tensors = load_file(path)
    name = max(name for name in tensors if not name.startswith("quant_conv"))  # which is the VAE's encoder's
    tensors[name].view(-1)[0] = float("nan")
    save_file(tensors, path, {"format": "pt"})
    Manifest.of(checkpoint.folder).write(checkpoint.folder)

    with pytest.raises(CheckpointError, match=f"{part}: weight .* holds NaN or infinity"):
        startup.start_engine(TINY_RANDOM, checkpoint, device="cpu")


def change(checkpoint: Checkpoint, part: str, name: str, to: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Change the weights of *part* whose names hold *name*, with a manifest to match: as if it were published so."""
    (path,) = (checkpoint.folder / part).glob("*.safetensors")
    tensors = load_file(path)
    changed = {key: to(tensor).contiguous() if name in key else tensor for key, tensor in tensors.items()}
    save_file(changed, path, {"format": "pt"})
    Manifest.of(checkpoint.folder).write(checkpoint.folder)


def told_at_the_start(checkpoint: Checkpoint) -> CheckpointError:
    with pytest.raises(CheckpointError) as raised:
        startup.start_engine(TINY_RANDOM, checkpoint, device="cpu")
    assert raised.value.code == "checkpoint_invalid"
    return raised.value


@pytest.mark.parametrize(
    ("part", "name"), [("text_encoder", "DenseReluDense"), ("transformer", "ffn"), ("vae", "decoder.up")]
)
def test_a_part_with_many_matrices_of_zeros_is_told_at_the_start(checkpoint, part, name):
    change(checkpoint, part, name, torch.zeros_like)

    detail = told_at_the_start(checkpoint).detail

    assert re.search(rf"{part}: \d+ of \d+ weight matrices are all zeros, the first is .*{name}", detail)


@pytest.mark.parametrize("part", ["text_encoder", "transformer", "vae"])
def test_one_matrix_of_zeros_is_no_fault(checkpoint, part):
    model = load_components(checkpoint, torch.device("cpu")).models[part]
    name = next(name for name, tensor in model.state_dict().items() if tensor.dim() > 1)
    model.get_parameter(name).data.zero_()

    check_weights(checkpoint.folder, part, model)


def test_weights_that_no_training_gives_are_told_at_the_start(checkpoint):
    change(checkpoint, "transformer", "blocks.0.attn1.to_q.weight", lambda tensor: tensor * 1e9)

    assert re.search(
        r"transformer: weight blocks\.0\.attn1\.to_q\.weight is \d\.\de\+\d+ in the root mean square",
        told_at_the_start(checkpoint).detail,
    )


def test_bytes_that_are_no_bfloat16_are_never_taken_for_weights(tiny_checkpoint):
    model = tiny_engine(tiny_checkpoint).components.transformer.to(torch.bfloat16)
    weight = model.blocks[0].attn1.to_q.weight
    random = torch.randint(-(2**15), 2**15, weight.shape, generator=torch.Generator().manual_seed(0))
    weight.data = random.to(torch.int16).view(torch.bfloat16)

    with pytest.raises(CheckpointError, match=r"transformer: weight blocks\.0\.attn1\.to_q\.weight"):
        check_weights(Path("folder"), "transformer", model)


@pytest.mark.parametrize(
    ("part", "wrong", "where"),
    [("transformer", {"eps": -1e9}, "denoiser"), ("vae", {"latents_std": [1e39] * 16}, "decoder")],
)
def test_numbers_that_give_none_are_told_at_the_start(checkpoint, part, wrong, where):
    path = checkpoint.folder / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | wrong))
    Manifest.of(checkpoint.folder).write(checkpoint.folder)

    assert f"the {where} gives NaN or infinity without fast paths too" in told_at_the_start(checkpoint).detail


def test_weights_in_e4m3_pass_the_check(tiny_checkpoint):
    engine = tiny_engine(tiny_checkpoint, Acceleration(fused_denoiser=True, fp8_linears=True))

    startup.check_parts(engine)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("at", [0, 5000, 9999])
def test_one_number_that_is_not_finite_is_seen_among_many(dtype, value, at):
    weight = torch.full((100, 100), 60000.0, dtype=dtype)  # whose sum is infinite in float16
    assert holds_numbers(weight)
    weight.view(-1)[at] = value

    assert not holds_numbers(weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_nan_is_seen_in_each_dtype(dtype):
    assert holds_numbers(torch.tensor([448.0, -448.0, 0.0]).to(dtype))
    assert not holds_numbers(torch.tensor([1.0, float("nan"), 0.0]).to(dtype))
    assert not holds_numbers(torch.tensor([1.0, -float("nan"), 0.0]).to(dtype))


def test_a_text_encoder_that_says_the_same_of_each_word_is_refused(checkpoint):
    change(checkpoint, "text_encoder", "final_layer_norm", torch.zeros_like)

    detail = told_at_the_start(checkpoint).detail

    assert "text_encoder: the embedding of 'a cat on a roof' is the same" in detail


def test_a_broken_file_is_no_reason_to_try_again(monkeypatch, checkpoint):
    monkeypatch.setattr(startup, "options_for", lambda *_: FAST)
    cut(checkpoint.folder / "vae" / "diffusion_pytorch_model.safetensors")

    with capture_logs() as lines, pytest.raises(CheckpointError, match="vae"):
        startup.start_engine(TINY_RANDOM, checkpoint, device="cpu")

    assert lines == []


def test_a_cpu_has_no_fast_paths():
    assert startup.options_for(FASTWAN_3STEP, torch.device("cpu")) == PLAIN


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_an_error_that_names_the_setting(checkpoint):
    with pytest.raises(EngineError, match="ANIME_STUDIO_DEVICE"):
        startup.start_engine(TINY_RANDOM, checkpoint, device="cuda")
