"""A prepared checkpoint loads to the bits of its source; a damaged one costs a slower start and none of its bytes."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from structlog.testing import capture_logs

from anime_studio.checkpoints import manifest
from anime_studio.checkpoints.manifest import Packing
from anime_studio.checkpoints.prepared import prepared_folder, verify_prepared
from anime_studio.checkpoints.store import Checkpoint, locate
from anime_studio.core.errors import CheckpointError
from anime_studio.core.recipes import DEMO, TINY_RANDOM
from anime_studio.engine.acceleration import packing_for
from anime_studio.engine.engine import Engine
from anime_studio.engine.loading.components import (
    Components,
    LoadedText,
    load_components,
    load_text_encoder,
    read_source,
)
from anime_studio.engine.loading.from_shards import read_prepared
from anime_studio.engine.loading.prepare import packing_of, prepare
from anime_studio.telemetry import LogEvent
from support.engine import Reports, cut, flip, spec_of

CPU = torch.device("cpu")
MODELS = ("text_encoder", "transformer", "vae")
SMALL_SHARD_BYTES = 20_000
SHARD = "transformer/00001.safetensors"


def prepared_for(checkpoint: Checkpoint) -> Path:
    return prepare(checkpoint, packing_for("cpu"), shard_bytes=SMALL_SHARD_BYTES)


def load_both(checkpoint: Checkpoint) -> tuple[Components, Components]:
    """Load the source before it is prepared, and what was prepared from it."""
    source = load_components(checkpoint, CPU)
    folder = prepared_for(checkpoint)
    prepared = load_components(checkpoint, CPU)
    assert (prepared.folder, source.folder) == (folder, checkpoint.folder)
    return prepared, source


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def assert_same_bits(ours, theirs) -> None:
    mine, other = ours.state_dict(), theirs.state_dict()
    mine |= dict(ours.named_buffers())
    other |= dict(theirs.named_buffers())
    assert mine.keys() == other.keys()
    for name in mine:
        assert (mine[name].dtype, mine[name].shape) == (other[name].dtype, other[name].shape), name
        assert torch.equal(bits(mine[name]), bits(other[name])), name


def test_every_tensor_is_what_loading_the_source_makes_of_it(checkpoint):
    with capture_logs() as lines:
        ours, theirs = load_both(checkpoint)

    for name in MODELS:
        assert_same_bits(getattr(ours, name), getattr(theirs, name))
    assert torch.equal(ours.text_encoder.shared.weight, theirs.text_encoder.shared.weight)
    assert ours.scheduler_config == theirs.scheduler_config
    assert lines == []


@pytest.mark.parametrize("shard_bytes", [SMALL_SHARD_BYTES, 10**9])
def test_what_is_prepared_for_a_gpu_has_the_bits_of_bfloat16_loading(checkpoint, shard_bytes):
    packing = packing_for("cuda")
    folder = prepare(checkpoint, packing, shard_bytes=shard_bytes)

    ours = read_prepared(folder, packing, CPU)

    theirs = read_source(checkpoint.folder, packing, CPU)
    for name in MODELS:
        assert_same_bits(ours[name], theirs[name])
    dtypes = {tensor.dtype for tensor in ours["transformer"].state_dict().values()}
    assert dtypes == {torch.bfloat16, torch.float32}, "diffusers keeps norms and tables in float32"


def test_a_text_encoder_alone_is_the_one_of_the_whole_and_near_float32_on_a_cpu(checkpoint):
    def embedded(loaded: LoadedText) -> torch.Tensor:
        with torch.inference_mode():
            return loaded.model(torch.arange(1, 17)[None]).last_hidden_state.float()

    exact = embedded(load_text_encoder(checkpoint, Packing("plain", "float32")))
    packing = Packing("plain", "bfloat16")
    source = load_text_encoder(checkpoint, packing)
    folder = prepare(checkpoint, packing, shard_bytes=SMALL_SHARD_BYTES)
    prepared = load_text_encoder(checkpoint, packing)

    assert (source.folder, prepared.folder) == (checkpoint.folder, folder)
    assert_same_bits(prepared.model, source.model)
    assert 0 < float((embedded(prepared) - exact).norm() / exact.norm()) < 0.015


def test_an_engine_whose_text_is_encoded_elsewhere_reads_nothing_of_the_encoder(checkpoint):
    prepared_for(checkpoint)

    components = load_components(checkpoint, CPU, with_text=False)

    assert components.text_encoder is None and components.tokenizer is None
    assert sorted(components.models) == ["transformer", "vae"]


def test_a_clip_of_prepared_weights_is_the_same_file(checkpoint, tmp_path):
    clips = []
    for components in load_both(checkpoint):
        # Plain loading maps the file, and CPU kernels sum unaligned weights in another order. In memory of their own,
        # as prepared weights are, the same bits give the same clip.
        for name in MODELS:
            for parameter in getattr(components, name).parameters():
                parameter.data = parameter.data.clone()
        folder = tmp_path / f"clip-{len(clips)}"
        folder.mkdir()
        engine = Engine(components, TINY_RANDOM, revision="random-0")
        clips.append(engine.render(spec_of(), folder, Reports()).video.read_bytes())

    assert clips[0] == clips[1]


def test_the_packaged_checkpoint_is_prepared_under_the_models_folder(tmp_path):
    ours, theirs = load_both(locate(DEMO, tmp_path))

    assert ours.folder.parent == tmp_path / "demo"
    for name in MODELS:
        assert_same_bits(getattr(ours, name), getattr(theirs, name))


def test_other_tools_read_the_shards(checkpoint):
    folder = prepare(checkpoint, Packing("plain", "bfloat16"), shard_bytes=SMALL_SHARD_BYTES)

    shards = sorted((folder / "transformer").glob("*.safetensors"))
    read = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}

    assert len(shards) > 2
    source = load_file(checkpoint.folder / "transformer" / "diffusion_pytorch_model.safetensors")
    assert read.keys() == source.keys()
    assert torch.equal(read["proj_out.weight"], source["proj_out.weight"].to(torch.bfloat16))


def test_what_is_loaded_can_be_written_to(checkpoint):
    prepared_for(checkpoint)
    with torch.no_grad():  # memory of its own, no view of the file
        load_components(checkpoint, CPU).transformer.proj_out.weight.zero_()

    assert load_components(checkpoint, CPU).transformer.proj_out.weight.any()


def test_text_weights_in_int8_of_an_older_version_are_refused_with_words_and_the_source_is_loaded(checkpoint):
    old = prepared_folder(checkpoint, Packing("int8", "float32"))
    prepared_for(checkpoint).rename(old)
    path = old / manifest.MANIFEST
    path.write_text(path.read_text().replace('"plain"', '"int8"'))

    with capture_logs() as lines:
        assert load_components(checkpoint, CPU).folder == checkpoint.folder

    (line,) = lines
    assert line["event"] == LogEvent.ENGINE_PREPARED_REFUSED
    words = r"int8-float32-v1 is not packed as plain-float32.* weights prepare"
    assert re.search(words, line["detail"])
    with pytest.raises(CheckpointError, match=words):
        verify_prepared(checkpoint, packing_for("cpu"))


def set_version_2(path: Path) -> None:
    content = json.loads(path.read_text())
    content["layout"]["version"] = 2
    path.write_text(json.dumps(content))


def replace_header(path: Path) -> None:
    """Keep the size, so that a start which compares sizes only meets it while it loads."""
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])


@pytest.mark.parametrize(
    ("name", "damage", "large"),
    [
        (SHARD, flip, False), (SHARD, cut, False), (SHARD, Path.unlink, False), (SHARD, cut, True),
        (SHARD, replace_header, True), ("vae/config.json", Path.unlink, True), ("tokenizer/tokenizer.json", cut, False),
        (manifest.MANIFEST, Path.unlink, False), (manifest.MANIFEST, cut, False), (manifest.MANIFEST, set_version_2, False),
    ],
)  # fmt: skip
def test_a_damaged_prepared_checkpoint_is_logged_with_its_fix_and_the_source_is_loaded(
    checkpoint, name, damage, large, monkeypatch
):
    expected, folder = load_components(checkpoint, CPU), prepared_for(checkpoint)
    if large:
        monkeypatch.setattr(manifest, "HASHED_AT_START_BYTES", 0)
    damage(folder / name)

    with capture_logs() as lines:
        components = load_components(checkpoint, CPU)

    (line,) = lines
    assert (line["event"], line["log_level"]) == (LogEvent.ENGINE_PREPARED_REFUSED, "warning")
    assert f"{folder.name}/{name}" in line["detail"]
    assert "anime-studio weights prepare --recipe tiny-random" in line["detail"]
    assert components.folder == checkpoint.folder
    assert_same_bits(components.transformer, expected.transformer)
    with pytest.raises(CheckpointError):
        verify_prepared(checkpoint, packing_for("cpu"))


@pytest.mark.parametrize("prepared", [True, False])
def test_a_damaged_source_is_an_error_that_names_it(checkpoint, prepared):
    if prepared:
        cut(prepared_for(checkpoint) / SHARD)
    cut(checkpoint.folder / "vae" / "diffusion_pytorch_model.safetensors")

    with capture_logs() as lines, pytest.raises(CheckpointError, match=r"random-0/vae/.* is truncated"):
        load_components(checkpoint, CPU)

    assert [line["event"] for line in lines] == [LogEvent.ENGINE_PREPARED_REFUSED] * prepared


def test_a_gpu_gets_bfloat16_and_a_cpu_float32():
    assert packing_of("cuda") == Packing("plain", "bfloat16")
    assert packing_of("cpu") == Packing("plain", "float32")
