"""A prepared checkpoint's weights, straight from its shards to where they stay.

Models are built without weights, given the form they are served in, given memory, and filled: by several threads,
the text encoder never in full precision, nothing moved twice. What comes out is bit for bit what packing at each
load makes of the source (`loading`, `linears`). docs/adr/0014 has the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin

from anime_studio.core.errors import CheckpointError
from anime_studio.engine.acceleration import Acceleration, TextWeights
from anime_studio.engine.linears import HostEmbedding, pack_linears
from anime_studio.engine.shard_reader import ShardReader
from anime_studio.engine.shards import Entry, check_tensors, read_header
from anime_studio.engine.streaming import home_for, stream_layers
from anime_studio.weights import read_manifest

TABLE = "shared.weight"
"""The text encoder's embedding table; the encoder's own name for it is left out of prepared files."""
TABLE_AGAIN = "encoder.embed_tokens.weight"
LAYERS = "encoder.block."
_META = torch.device("meta")

Headers = Mapping[Path, Mapping[str, Entry]]


def read_prepared(
    folder: Path,
    empty: Mapping[str, Any],
    dtype: torch.dtype,
    device: torch.device,
    acceleration: Acceleration,
) -> dict[str, Any]:
    """Fill *empty* from the prepared checkpoint in *folder*, onto *device*, and return it.

    Args:
        folder: Packed as *device* and *acceleration* ask for.
        empty: `text_encoder`, `transformer` and `vae` (its decoder alone), their weights on the meta device.
        dtype: Of all weights that a component does not keep wide.
        device: Where they go, but for the embedding table and waiting layers, as *acceleration* says.
        acceleration: How the text encoder is kept.

    Raises:
        CheckpointError: A shard is missing, truncated or holds other tensors; the detail names it.
    """
    files = open_form(folder, empty, dtype, acceleration.text_weights)
    text, transformer, vae = (empty[name] for name in ("text_encoder", "transformer", "vae"))
    with ShardReader(device) as reader:
        for name in ("transformer", "vae"):
            room = _room(files[name], lambda _: device)
            _begin(reader, files[name], room)
            empty[name].load_state_dict(room, assign=True)
        homes = _begin_text(reader, files["text_encoder"], text, device, acceleration)
    if homes:
        stream_layers(text.encoder, text.encoder.block, device, homes)
    models = {"text_encoder": text, "transformer": transformer.to(device), "vae": vae}
    return {name: model.eval().requires_grad_(False) for name, model in models.items()}


def open_form(
    folder: Path, empty: Mapping[str, Any], dtype: torch.dtype, kind: TextWeights
) -> dict[str, Headers]:
    """Give *empty* the form it is served in, hold the shards in *folder* against it, and return their headers.

    Raises:
        CheckpointError: A shard is missing, truncated or holds other tensors; the detail names it.
    """
    for model in empty.values():
        _narrow(model, dtype)
    pack_text(empty["text_encoder"], kind, _META)
    return {name: _check_shards(folder, name, model) for name, model in empty.items()}


def pack_text(text_encoder: Any, kind: TextWeights, device: torch.device) -> None:
    """Give the text encoder's linears the form they are served in; on the meta device, the form alone."""
    if kind is not TextWeights.PLAIN:
        pack_linears(text_encoder, device)


def served_tensors(model: Any) -> dict[str, torch.Tensor]:
    """Return what a prepared file holds of *model*, which has the form it is served in, by name."""
    return {name: tensor for name, tensor in model.state_dict().items() if name != TABLE_AGAIN}


def _check_shards(folder: Path, part: str, model: Any) -> Headers:
    expected = served_tensors(model)
    names = [name for name in read_manifest(folder) if Path(name).match(f"{part}/*.safetensors")]
    files = {folder / name: read_header(folder / name) for name in names}
    check_tensors(folder / part, files, {name: tuple(tensor.shape) for name, tensor in expected.items()})
    for path, entries in files.items():
        for name, entry in entries.items():
            _check_entry(path, name, entry, expected[name])
    return files


def _check_entry(path: Path, name: str, entry: Entry, expected: torch.Tensor) -> None:
    dtype = entry.torch_dtype
    if dtype is not expected.dtype:
        raise CheckpointError(
            f"{path}: weight {name} is {entry.dtype}, these settings ask for {expected.dtype}"
        )
    if entry.end - entry.begin != expected.nbytes:
        raise CheckpointError(f"{path}: weight {name} has {entry.end - entry.begin} bytes, not its shape's")


def _narrow(model: Any, dtype: torch.dtype) -> None:
    """Give the empty *model* the dtypes that loading gives it: diffusers keeps some weights wide."""
    wide = frozenset(model._keep_in_fp32_modules or ()) if isinstance(model, ModelMixin) else frozenset()
    for name, parameter in model.named_parameters():
        if not wide.intersection(name.split(".")):
            parameter.data = parameter.data.to(dtype)


def _room(files: Headers, place: Callable[[str], torch.device]) -> dict[str, torch.Tensor]:
    return {
        name: torch.empty(entry.shape, dtype=entry.torch_dtype, device=place(name))
        for entries in files.values()
        for name, entry in entries.items()
    }


def _begin(reader: ShardReader, files: Headers, room: Mapping[str, torch.Tensor]) -> None:
    for path, entries in files.items():
        reader.read(path, entries, room)


def _begin_text(
    reader: ShardReader, files: Headers, text: Any, device: torch.device, acceleration: Acceleration
) -> list[torch.Tensor]:
    """Have the text encoder filled, part of which stays in main memory; return the waiting layers' homes."""
    table_on = torch.device("cpu") if acceleration.text_embedding_on_cpu else device
    resident = _without_layers(files) if acceleration.text_streamed else files
    room = _room(resident, lambda name: table_on if name == TABLE else device)
    _begin(reader, files, room)
    homes = []
    if acceleration.text_streamed:
        for index, layer in enumerate(text.encoder.block):
            # Locking takes as long as reading: what is locked is read while the next is.
            home, parts = home_for(layer, locked=device.type == "cuda")
            homes.append(home)
            named = {f"{LAYERS}{index}.{name}": part for name, part in parts.items()}
            _begin(reader, files, named)
            room |= named
    text.load_state_dict(room | {TABLE_AGAIN: room[TABLE]}, assign=True)
    if acceleration.text_embedding_on_cpu:
        text.shared = text.encoder.embed_tokens = HostEmbedding(text.shared, device)
    return homes


def _without_layers(files: Headers) -> Headers:
    return {
        path: {name: entry for name, entry in entries.items() if not name.startswith(LAYERS)}
        for path, entries in files.items()
    }
