"""A prepared checkpoint's weights, read from its shards straight to where they stay.

The models are built without weights, in the dtype that is served. Each tensor then gets memory where it will stay, and
several threads fill that memory from the shards. No weight is converted or moved twice. The
result is bit for bit what `components.read_source` makes of the source.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin

from anime_studio.checkpoints.manifest import Manifest, Packing
from anime_studio.checkpoints.safetensors_header import Entry, Headers, check_tensors, read_header
from anime_studio.core.errors import CheckpointError
from anime_studio.engine.loading.architecture import MODELS, empty_models, library_errors, without_encoder
from anime_studio.engine.loading.parallel_reader import ParallelReader
from anime_studio.engine.loading.safetensors_file import torch_dtype

EMBEDDING = "shared.weight"
"""The text encoder's embedding table."""
TIED_EMBEDDING = "encoder.embed_tokens.weight"
"""The encoder's own name for the same table; prepared files leave it out."""


def read_prepared(
    folder: Path,
    packing: Packing,
    device: torch.device,
    parts: Collection[str] = tuple(MODELS),
    *,
    gated: bool = False,
) -> dict[str, Any]:
    """Read models of a prepared checkpoint onto *device*.

    Args:
        folder: Prepared as *packing*.
        packing: What *device* asks for.
        device: Where the weights go.
        parts: The names of the models that are wanted.
        gated: See `Checkpoint.gated`.

    Raises:
        CheckpointError: A file is missing, unreadable or truncated, or a shard holds other tensors; the detail names it.
    """
    with library_errors(folder):
        models, files = open_prepared(folder, packing, gated=gated)
        with ParallelReader(device) as reader:
            for name in parts:
                tensors = _allocate(files[name], device)
                reader.read(files[name], tensors)
                if name == "text_encoder":
                    tensors[TIED_EMBEDDING] = tensors[EMBEDDING]
                models[name].load_state_dict(tensors, assign=True)
        if "transformer" in parts:
            models["transformer"].to(device)  # its buffers, which no file holds
        return {name: models[name].eval().requires_grad_(False) for name in parts}


def open_prepared(
    folder: Path, packing: Packing, *, gated: bool = False
) -> tuple[dict[str, Any], dict[str, Headers]]:
    """Return the models as they are served, without weights, and the headers of each model's shards.

    Raises:
        CheckpointError: A JSON file is wrong (`empty_models`); a shard is missing, truncated or holds other tensors.
    """
    models = empty_models(folder, gated=gated)
    without_encoder(models["vae"])
    for model in models.values():
        _cast(model, getattr(torch, packing.dtype))
    return models, {name: _check_shards(folder, name, model) for name, model in models.items()}


def served_tensors(model: Any) -> dict[str, torch.Tensor]:
    """Return the tensors that prepared files hold of *model*, as it is served, by name."""
    return {name: tensor for name, tensor in model.state_dict().items() if name != TIED_EMBEDDING}


def _check_shards(folder: Path, part: str, model: Any) -> Headers:
    expected = served_tensors(model)
    names = [name for name in Manifest.read(folder).files if Path(name).match(f"{part}/*.safetensors")]
    files = {folder / name: read_header(folder / name) for name in names}
    check_tensors(folder / part, files, {name: tuple(tensor.shape) for name, tensor in expected.items()})
    for path, entries in files.items():
        for name, entry in entries.items():
            _check_entry(path, name, entry, expected[name])
    return files


def _check_entry(path: Path, name: str, entry: Entry, expected: torch.Tensor) -> None:
    if torch_dtype(entry) is not expected.dtype:
        raise CheckpointError(
            f"{path}: weight {name} is {entry.dtype}, these settings ask for {expected.dtype}"
        )
    if entry.end - entry.begin != expected.nbytes:
        raise CheckpointError(f"{path}: weight {name} has {entry.end - entry.begin} bytes, not its shape's")


def _cast(model: Any, dtype: torch.dtype) -> None:
    """Give the empty *model* the dtypes that `from_pretrained` gives it: diffusers keeps some weights in float32."""
    in_float32 = (
        frozenset(model._keep_in_fp32_modules or ()) if isinstance(model, ModelMixin) else frozenset()
    )
    for name, parameter in model.named_parameters():
        if not in_float32.intersection(name.split(".")):
            parameter.data = parameter.data.to(dtype)


def _allocate(files: Headers, device: torch.device) -> dict[str, torch.Tensor]:
    return {
        name: torch.empty(entry.shape, dtype=torch_dtype(entry), device=device)
        for entries in files.values()
        for name, entry in entries.items()
    }
