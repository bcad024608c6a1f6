"""A checkpoint that is not exactly right is refused by the name of the file that is wrong."""

import json
import shutil
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


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_said(tiny_checkpoint):
    with pytest.raises(EngineError, match="ANIME_STUDIO_DEVICE"):
        load_engine(TINY_RANDOM, tiny_checkpoint, device="cuda")
