"""A checkpoint that is not exactly right is refused by the name of the file that is wrong."""

import json
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from anime_studio.core.errors import CheckpointError, EngineError
from anime_studio.core.recipes import TINY_RANDOM
from anime_studio.engine.engine import load_engine

TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))


def load(folder: Path) -> None:
    load_engine(TINY_RANDOM, folder, device="cpu")


def refused(folder: Path, match: str) -> None:
    with pytest.raises(CheckpointError, match=match):
        load(folder)


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def retensor(folder: Path, change) -> None:
    tensors = load_file(folder / TRANSFORMER)
    change(tensors)
    save_file(tensors, folder / TRANSFORMER, metadata={"format": "pt"})


@pytest.mark.parametrize(
    "name",
    [
        "model_index.json", "scheduler/scheduler_config.json", "transformer/config.json", TRANSFORMER,
        "text_encoder/model.safetensors", "vae/diffusion_pytorch_model.safetensors",
    ],
)  # fmt: skip
def test_a_missing_file_is_named(checkpoint, name):
    (checkpoint / name).unlink()

    refused(checkpoint, f"{name} is missing")


@pytest.mark.parametrize("kept_bytes", [0, 4, 100, -1])
def test_a_truncated_weight_file_is_named(checkpoint, kept_bytes):
    path = checkpoint / TRANSFORMER
    path.write_bytes(path.read_bytes()[:kept_bytes])

    refused(checkpoint, TRANSFORMER)


def test_a_weight_file_with_bytes_to_spare_is_named(checkpoint):
    with (checkpoint / TRANSFORMER).open("ab") as file:
        file.write(b"more")

    refused(checkpoint, f"{TRANSFORMER} is longer")


def test_a_missing_weight_is_named(checkpoint):
    retensor(checkpoint, lambda tensors: tensors.pop("proj_out.weight"))

    refused(checkpoint, r"lacks 1 weights, the first is proj_out\.weight")


def test_a_weight_of_another_model_is_named(checkpoint):
    retensor(checkpoint, lambda tensors: tensors.update(alien=torch.zeros(1)))

    refused(checkpoint, "weights of another model, the first is alien")


def test_a_misshapen_weight_is_named(checkpoint):
    retensor(checkpoint, lambda tensors: tensors.update({"proj_out.bias": torch.zeros(3)}))

    refused(checkpoint, r"proj_out\.bias has shape \[3\]")


def test_a_configuration_of_another_size_is_refused(checkpoint):
    edit(checkpoint / "transformer/config.json", num_layers=3)

    refused(checkpoint, "lacks")


def test_a_configuration_that_means_nothing_is_refused(checkpoint):
    edit(checkpoint / "transformer/config.json", patch_size=None)

    refused(checkpoint, "transformer/config.json")


@pytest.mark.parametrize("name", ["model_index.json", "vae/config.json"])
def test_unreadable_json_is_named(checkpoint, name):
    (checkpoint / name).write_text("{")

    refused(checkpoint, f"{name} cannot be read as JSON")


def test_another_pipeline_is_refused(checkpoint):
    edit(checkpoint / "model_index.json", _class_name="FluxPipeline")

    refused(checkpoint, "FluxPipeline")


def test_another_component_class_is_refused(checkpoint):
    edit(checkpoint / "model_index.json", vae=["diffusers", "AutoencoderKL"])

    refused(checkpoint, "vae is a AutoencoderKL")


def test_a_damaged_tokenizer_is_named(checkpoint):
    (checkpoint / "tokenizer/tokenizer.json").write_text("{}")

    refused(checkpoint, "tokenizer")


def edit_header(path: Path, change) -> None:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    change(header["proj_out.weight"], header)
    changed = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(changed)) + changed + content[8 + length :])


@pytest.mark.parametrize(
    "change",
    [
        lambda entry, _: entry.pop("shape"),
        lambda entry, _: entry.pop("data_offsets"),
        lambda entry, _: entry.update(dtype="Q9"),
        lambda entry, _: entry.update(dtype="F16"),
        lambda entry, _: entry.update(data_offsets=[0, 4]),
        lambda _, header: header.update({"proj_out.weight": None}),
    ],
)
def test_an_altered_header_is_named(checkpoint, change):
    edit_header(checkpoint / TRANSFORMER, change)

    refused(checkpoint, "transformer")


@pytest.mark.parametrize(
    "weight_map", [None, [1], {"a": ["x"]}, {"a": "../x"}, {"alien": Path(TRANSFORMER).name}]
)
def test_an_index_that_names_no_shards_is_refused(checkpoint, weight_map):
    (checkpoint / f"{TRANSFORMER}.index.json").write_text(json.dumps({"weight_map": weight_map}))

    refused(checkpoint, "transformer")


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("text_encoder", {"d_model": "x"}),
        ("transformer", {"rope_max_seq_len": None}),
        ("transformer", {"attention_head_dim": -1}),
        ("vae", {"dim_mult": []}),
        ("vae", {"temperal_downsample": []}),
        ("vae", {"latents_std": None}),
        ("vae", {"latents_mean": [0.0]}),
        ("vae", {"scale_factor_temporal": 0}),
        ("vae", {"patch_size": "x"}),
    ],
)
def test_a_configuration_no_model_has_is_named(checkpoint, part, change):
    edit(checkpoint / part / "config.json", **change)

    refused(checkpoint, f"{part}/config.json")


def test_parts_that_do_not_fit_each_other_are_refused(checkpoint):
    edit(checkpoint / "text_encoder/config.json", d_model=64)

    refused(checkpoint, "64 numbers a token")


def test_a_tokenizer_that_cannot_pad_is_refused(checkpoint):
    (checkpoint / "tokenizer/tokenizer_config.json").unlink()

    refused(checkpoint, "tokenizer_config.json is missing or names no pad_token")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_said(tiny_checkpoint):
    with pytest.raises(EngineError, match="ANIME_STUDIO_DEVICE"):
        load_engine(TINY_RANDOM, tiny_checkpoint, device="cuda")
