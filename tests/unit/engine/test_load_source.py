"""A checkpoint that is not exactly right is refused by the name of the file that is wrong."""

import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from anime_studio.checkpoints.store import Checkpoint
from anime_studio.core.errors import CheckpointError
from anime_studio.core.recipes import TINY_RANDOM, Sampler
from anime_studio.engine.loading.components import load_components
from anime_studio.engine.startup import load_engine

TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
TABLES = ("shared.weight", "encoder.embed_tokens.weight")


@pytest.fixture
def folder(checkpoint) -> Path:
    return checkpoint.folder


def refused(folder: Path, match: str) -> None:
    with pytest.raises(CheckpointError, match=match):
        load_components(Checkpoint.at(folder), torch.device("cpu"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "name",
    [
        "model_index.json", "transformer/config.json", TRANSFORMER,
        "text_encoder/model.safetensors", "vae/diffusion_pytorch_model.safetensors",
    ],
)  # fmt: skip
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()

    refused(folder, f"{name} is missing")


def test_scheduler_settings_are_needed_only_by_a_recipe_that_samples_by_them(folder):
    (folder / "scheduler/scheduler_config.json").unlink()
    few_step = replace(TINY_RANDOM, sampler=Sampler.DMD, timesteps=(999,))

    load_engine(few_step, Checkpoint.at(folder), torch.device("cpu"))
    with pytest.raises(
        CheckpointError, match=r"scheduler/scheduler_config\.json is missing; recipe tiny-random"
    ):
        load_engine(TINY_RANDOM, Checkpoint.at(folder), torch.device("cpu"))


def test_an_index_of_a_few_step_pipeline_over_the_same_parts_is_accepted(folder):
    edit(folder / "model_index.json", _class_name="WanDMDPipeline")

    load_components(Checkpoint.at(folder), torch.device("cpu"))


@pytest.mark.parametrize("part", ["text_encoder", "transformer", "vae"])
def test_a_key_that_a_configuration_has_too_many_does_no_harm(folder, part):
    edit(folder / part / "config.json", _trained_by="somebody", attention_backend="sage")

    load_components(Checkpoint.at(folder), torch.device("cpu"))


@pytest.mark.parametrize("name", ["shared.weight", "encoder.embed_tokens.weight"])
def test_either_name_of_the_embedding_table_is_enough(folder, name):
    path = folder / "text_encoder/model.safetensors"
    tensors = load_file(path)
    table = next(
        tensors.pop(key) for key in ("shared.weight", "encoder.embed_tokens.weight") if key in tensors
    )
    save_file(
        {key: tensor for key, tensor in tensors.items() if key not in TABLES} | {name: table},
        path,
        {"format": "pt"},
    )

    loaded = load_components(Checkpoint.at(folder), torch.device("cpu")).text_encoder

    assert torch.equal(loaded.shared.weight, table)
    assert torch.equal(loaded.encoder.embed_tokens.weight, table)


def test_two_embedding_tables_that_differ_are_refused(folder):
    path = folder / "text_encoder/model.safetensors"
    edit(folder / "text_encoder/config.json", tie_word_embeddings=False)
    tensors = load_file(path)
    table = next(tensors[key] for key in TABLES if key in tensors)
    save_file(tensors | {TABLES[0]: table.clone(), TABLES[1]: table + 1}, path, {"format": "pt"})

    refused(folder, "they are one table")


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_codes_without_scales_are_refused(folder, dtype):
    tensors = load_file(folder / TRANSFORMER)
    tensors["proj_out.weight"] = tensors["proj_out.weight"].to(dtype)
    save_file(tensors, folder / TRANSFORMER, metadata={"format": "pt"})

    refused(folder, r"proj_out\.weight is (I8|F8_E4M3), a quantized code without a scale")


def test_two_sets_of_weights_in_one_folder_are_refused_by_both_names(folder):
    index = folder / f"{TRANSFORMER}.index.json"
    index.write_text(
        json.dumps({"weight_map": {"proj_out.weight": "diffusion_pytorch_model-1-of-1.safetensors"}})
    )

    refused(
        folder,
        r"two sets of weights: diffusion_pytorch_model\.safetensors, and the shards that .*index\.json names",
    )


@pytest.mark.parametrize("left_bytes", [0, 4, 100, -1])
def test_a_truncated_weight_file_is_named(folder, left_bytes):
    path = folder / TRANSFORMER
    path.write_bytes(path.read_bytes()[:left_bytes])

    refused(folder, TRANSFORMER)


def test_a_weight_file_with_bytes_to_spare_is_named(folder):
    with (folder / TRANSFORMER).open("ab") as file:
        file.write(b"more")

    refused(folder, f"{TRANSFORMER} is longer")


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (lambda tensors: tensors.pop("proj_out.weight"), r"lacks 1 weights, the first is proj_out\.weight"),
        (
            lambda tensors: tensors.update(alien=torch.zeros(1)),
            "weights of another model, the first is alien",
        ),
        (
            lambda tensors: tensors.update({"proj_out.bias": torch.zeros(3)}),
            r"proj_out\.bias has shape \[3\]",
        ),
    ],
)
def test_a_missing_an_unexpected_and_a_misshapen_weight_are_named(folder, change, refusal):
    tensors = load_file(folder / TRANSFORMER)
    change(tensors)
    save_file(tensors, folder / TRANSFORMER, metadata={"format": "pt"})

    refused(folder, refusal)


def test_a_configuration_of_another_size_is_refused(folder):
    edit(folder / "transformer/config.json", num_layers=3)

    refused(folder, "lacks")


def test_a_configuration_that_means_nothing_is_refused(folder):
    edit(folder / "transformer/config.json", patch_size=None)

    refused(folder, "transformer/config.json")


DEEP = "[" * 30_000
"""Too deep for Python's parser, which raises RecursionError."""


@pytest.mark.parametrize("text", ["{", DEEP])
@pytest.mark.parametrize("name", ["model_index.json", "vae/config.json"])
def test_unreadable_json_is_named(folder, name, text):
    (folder / name).write_text(text)

    refused(folder, f"{name} cannot be read as JSON")


def test_a_deeply_nested_header_is_refused(folder):
    (folder / TRANSFORMER).write_bytes(struct.pack("<Q", len(DEEP)) + DEEP.encode())

    refused(folder, f"{TRANSFORMER} cannot be read as safetensors")


def test_another_pipeline_is_refused(folder):
    edit(folder / "model_index.json", _class_name="FluxPipeline")

    refused(folder, "FluxPipeline")


def test_another_component_class_is_refused(folder):
    edit(folder / "model_index.json", vae=["diffusers", "AutoencoderKL"])

    refused(folder, "vae is a AutoencoderKL")


def test_a_damaged_tokenizer_is_named(folder):
    (folder / "tokenizer/tokenizer.json").write_text("{}")

    refused(folder, "tokenizer")


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
def test_an_altered_header_is_named(folder, change):
    edit_header(folder / TRANSFORMER, change)

    refused(folder, "transformer")


@pytest.mark.parametrize(
    "weight_map", [None, [1], {"a": ["x"]}, {"a": "../x"}, {"alien": Path(TRANSFORMER).name}]
)
def test_an_index_that_names_no_shards_is_refused(folder, weight_map):
    (folder / f"{TRANSFORMER}.index.json").write_text(json.dumps({"weight_map": weight_map}))

    refused(folder, "transformer")


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
def test_a_configuration_no_model_has_is_named(folder, part, change):
    edit(folder / part / "config.json", **change)

    refused(folder, f"{part}/config.json")


def test_parts_that_do_not_fit_each_other_are_refused(folder):
    edit(folder / "text_encoder/config.json", d_model=64)

    refused(folder, "64 numbers a token")


def test_a_tokenizer_that_cannot_pad_is_refused(folder):
    (folder / "tokenizer/tokenizer_config.json").unlink()

    refused(folder, "tokenizer_config.json is missing or names no pad_token")
