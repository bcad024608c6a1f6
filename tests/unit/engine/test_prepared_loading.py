"""What a prepared checkpoint loads to is, bit for bit, what packing the source at each load gives."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from anime_studio.core.errors import CheckpointError
from anime_studio.core.recipes import DEMO, TINY_RANDOM
from anime_studio.engine import choosing
from anime_studio.engine.acceleration import PLAIN, Acceleration, TextWeights, levers, packing_for
from anime_studio.engine.engine import load_engine
from anime_studio.engine.loading import (
    Components,
    check_folder,
    decoder_alone,
    load_components,
    load_part,
    place_text_encoder,
)
from anime_studio.engine.prepared_loading import read_prepared
from anime_studio.engine.preparing import packing_of, prepare
from anime_studio.prepared import Forms, Packing
from anime_studio.weights import MANIFEST, PACKAGED
from support.engine import Reports, spec_of

CPU = torch.device("cpu")
PARTS = ("text_encoder", "transformer", "vae")
SMALL_SHARD_BYTES = 20_000


@pytest.fixture
def forms(tiny_checkpoint: Path, tmp_path: Path) -> Forms:
    source = Path(shutil.copytree(tiny_checkpoint, tmp_path / "tiny-random" / "random-0"))
    return Forms.of(TINY_RANDOM, source, tmp_path)


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


@pytest.mark.parametrize(
    "acceleration",
    [
        PLAIN,
        Acceleration(text_weights=TextWeights.INT8),
        Acceleration(text_weights=TextWeights.INT8, text_embedding_on_cpu=True),
    ],
)
@pytest.mark.parametrize("shard_bytes", [SMALL_SHARD_BYTES, 10**9])
def test_every_tensor_is_what_packing_at_load_makes_of_it(forms, acceleration, shard_bytes):
    folder = prepare(forms, packing_for("cpu", acceleration), shard_bytes=shard_bytes)

    ours = load_components(folder, CPU, acceleration)
    theirs = load_components(forms.source, CPU, acceleration)

    for part in PARTS:
        assert_same_bits(getattr(ours, part), getattr(theirs, part))
    assert torch.equal(ours.text_encoder.shared.weight, theirs.text_encoder.shared.weight)
    assert ours.scheduler_config == theirs.scheduler_config


@pytest.mark.parametrize("kind", [TextWeights.PLAIN, TextWeights.INT8])
def test_a_gpus_form_has_the_bits_of_bfloat16_loading(forms, kind):
    acceleration = Acceleration(text_weights=kind, text_embedding_on_cpu=True)
    folder = prepare(forms, Packing(kind.value, "bfloat16"))
    empty = check_folder(folder, weights=False)
    decoder_alone(empty["vae"])

    ours = read_prepared(folder, empty, torch.bfloat16, CPU, acceleration)

    theirs = {part: load_part(forms.source / part, torch.bfloat16) for part in PARTS}
    place_text_encoder(theirs["text_encoder"], CPU, acceleration)
    decoder_alone(theirs["vae"])
    for part in PARTS:
        assert_same_bits(ours[part], theirs[part])
    kept = {tensor.dtype for tensor in ours["transformer"].state_dict().values()}
    assert kept == {torch.bfloat16, torch.float32}, "diffusers keeps norms and tables wide"


def test_layers_that_wait_in_main_memory_embed_the_same_bits(forms):
    acceleration = Acceleration(text_weights=TextWeights.INT8, text_embedding_on_cpu=True, text_streamed=True)
    folder = prepare(forms, packing_for("cpu", acceleration), shard_bytes=SMALL_SHARD_BYTES)
    tokens = torch.arange(1, 17)[None]

    embedded = []
    for source in (folder, forms.source):
        text = load_components(source, CPU, acceleration).text_encoder
        with torch.inference_mode():
            embedded.append([text(tokens, torch.ones_like(tokens)).last_hidden_state for _ in range(2)])

    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*embedded, strict=True))


def test_a_clip_drawn_from_a_prepared_form_is_the_same_file(forms, tmp_path, monkeypatch):
    loaded: list[Path] = []

    def load_aligned(folder: Path, *given) -> Components:
        # Plain loading maps the file: weights begin where they do in it, and CPU kernels sum in another order for
        # unaligned ones. Same bits in memory of their own, as prepared ones have, draw the same bits.
        loaded.append(folder)
        components = load_components(folder, *given)
        for part in PARTS:
            for parameter in getattr(components, part).parameters():
                parameter.data = parameter.data.clone()
        return components

    monkeypatch.setattr(choosing, "load_components", load_aligned)
    before = load_engine(TINY_RANDOM, forms.source, device="cpu", models_dir=tmp_path)
    folder = prepare(forms, packing_for("cpu", PLAIN))
    after = load_engine(TINY_RANDOM, forms.source, device="cpu", models_dir=tmp_path)

    clips = []
    for engine in (before, after):
        into = tmp_path / f"clip-{len(clips)}"
        into.mkdir()
        clips.append(engine.render(spec_of(), into, Reports()).video.read_bytes())

    assert loaded == [forms.source, folder]
    assert clips[0] == clips[1]


def test_the_packaged_checkpoint_is_prepared_under_the_models_folder(tmp_path):
    forms = Forms.of(DEMO, PACKAGED / DEMO.name, tmp_path)

    folder = prepare(forms, packing_for("cpu", PLAIN))
    ours = load_engine(DEMO, forms.source, device="cpu", models_dir=tmp_path)

    assert folder.parent == tmp_path / "demo"
    theirs = load_components(forms.source, CPU)
    for part in PARTS:
        assert_same_bits(getattr(ours.components, part), getattr(theirs, part))


def test_other_tools_read_the_shards(forms):
    folder = prepare(forms, Packing("int8", "bfloat16"), shard_bytes=SMALL_SHARD_BYTES)

    shards = sorted((folder / "transformer").glob("*.safetensors"))
    read = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}

    assert len(shards) > 2
    wide = load_file(forms.source / "transformer" / "diffusion_pytorch_model.safetensors")
    assert read.keys() == wide.keys()
    assert torch.equal(read["proj_out.weight"], wide["proj_out.weight"].to(torch.bfloat16))


def test_what_is_loaded_can_be_written_to(forms):
    folder = prepare(forms, packing_for("cpu", PLAIN))
    components = load_components(folder, CPU)

    with torch.no_grad():
        components.transformer.proj_out.weight.zero_()  # memory of its own, no window on the file

    assert load_components(folder, CPU).transformer.proj_out.weight.any()


def test_a_form_of_another_packing_is_refused_by_name(forms):
    folder = prepare(forms, Packing("int8", "bfloat16"))

    with pytest.raises(
        CheckpointError, match=r"int8-bfloat16-v1 is packed as int8-bfloat16.* plain-float32"
    ) as raised:
        load_components(folder, CPU)

    assert "anime-studio weights prepare --recipe tiny-random" in raised.value.detail


def test_a_form_whose_packing_is_no_longer_known_is_passed_over_and_named(forms):
    asked = Packing("int8", "float32")
    made = prepare(forms, asked)
    old = made.rename(forms.folder(Packing("int4", "float32")))
    manifest = old / MANIFEST
    manifest.write_text(manifest.read_text().replace('"int8"', '"int4"'))

    assert forms.find(asked) is None
    for refused in (lambda: forms.verify(asked), lambda: load_components(old, CPU)):
        with pytest.raises(
            CheckpointError, match=r"int4-float32-v1 is packed as int4-float32.* weights prepare"
        ):
            refused()


@pytest.mark.parametrize("shard", ["text_encoder/00002", "transformer/00001", "vae/00001"])
@pytest.mark.parametrize("cut_bytes", [1, 1000])
def test_loading_refuses_a_truncated_shard_by_its_header(forms, shard, cut_bytes):
    folder = prepare(forms, packing_for("cpu", PLAIN), shard_bytes=SMALL_SHARD_BYTES)
    path = folder / f"{shard}.safetensors"
    path.write_bytes(path.read_bytes()[:-cut_bytes])

    with pytest.raises(CheckpointError, match=rf"{shard}\.safetensors is truncated.* weights prepare"):
        load_components(folder, CPU)


def test_every_fast_gpu_packs_alike_so_that_one_form_serves_them_all():
    packings = {
        packing_for("cuda", levers(capability)) for capability in ((8, 0), (8, 6), (8, 9), (9, 0), (10, 0))
    }

    assert len(packings) == 1
    if not torch.cuda.is_available():
        assert packings == {packing_of("cuda", accelerate=True)}


def test_plain_settings_ask_for_a_plain_form():
    assert packing_of("cuda", accelerate=False) == Packing("plain", "bfloat16")
    assert packing_of("cpu", accelerate=True) == Packing("plain", "float32")
