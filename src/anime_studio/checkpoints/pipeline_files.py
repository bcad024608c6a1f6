"""The files of a pipeline in diffusers' layout: which there must be, and which of them hold a part's weights. No torch."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from anime_studio.checkpoints.manifest import Packing
from anime_studio.checkpoints.safetensors_header import read_header
from anime_studio.core.errors import CheckpointError
from anime_studio.core.recipes import Recipe, Sampler

INDEX: Final = "model_index.json"
CLASSES: Final[Mapping[str, str]] = MappingProxyType(
    {"text_encoder": "UMT5EncoderModel", "transformer": "WanTransformer3DModel", "vae": "AutoencoderKLWan"}
)
"""The class of each model of a pipeline, by the name of its folder."""
WEIGHTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "text_encoder": "model.safetensors",
        "transformer": "diffusion_pytorch_model.safetensors",
        "vae": "diffusion_pytorch_model.safetensors",
    }
)
"""The file name of each model's weights, as transformers and diffusers write it."""
_OF_SHARDS: Final = ".index.json"
"""What the name of an index of shards adds to the name of the whole file."""
_TABLE, _SAME_TABLE = "shared.weight", "encoder.embed_tokens.weight"
"""One table under two names (transformers, `UMT5EncoderModel`); some files hold it twice."""
_PIPELINES: Final = ("WanPipeline", "WanDMDPipeline")
"""FastVideo's few-step students are published as `WanDMDPipeline`; the parts are WanPipeline's."""
SCHEDULER: Final = "scheduler/scheduler_config.json"
UPSCALER: Final = "upscaler"
"""The folder of the part that makes frames larger; few checkpoints have it. The index names it by `UPSCALER_CLASS`."""
UPSCALER_CLASS: Final = "SRVGGNetCompact"
UPSCALER_WEIGHTS: Final = "diffusion_pytorch_model.safetensors"


FOLDERS: Final = (INDEX, "scheduler/*", "tokenizer/*", f"{UPSCALER}/*", *(f"{part}/*" for part in CLASSES))
"""Patterns (`fnmatch`) of all that may belong to a pipeline; `needed` chooses among them."""


def indexes(listed: Collection[str]) -> list[str]:
    """Return the indexes of the parts that a repository with the files *listed* publishes in shards alone."""
    wholes = [whole for whole in _wholes() if whole not in listed]
    return [index for whole in wholes if (index := f"{whole}{_OF_SHARDS}") in listed]


def needed(listed: Collection[str], recipe: Recipe, folder: Path) -> set[str]:
    """Return which files of a repository a start reads; a fetch asks for no others, so for no second precision.

    Args:
        listed: The paths of the files that the repository has.
        recipe: Whose checkpoint.
        folder: Holds the `indexes`.

    Raises:
        CheckpointError: The repository lacks a file that a start reads; the detail names it.
    """
    in_shards = indexes(listed)
    found = [INDEX, *_configs(recipe), *in_shards]
    found += [whole for whole in _wholes() if f"{whole}{_OF_SHARDS}" not in in_shards]
    found += [str(Path(index).with_name(name)) for index in in_shards for name in _shards(folder / index)]
    if any(Path(path).parent == Path(UPSCALER) for path in listed):
        found += upscaler_files()
    found += [path for path in listed if path == SCHEDULER or Path(path).parent == Path("tokenizer")]
    if missing := [path for path in found if path not in listed]:
        raise CheckpointError(f"{missing[0]} is missing")
    return set(found)


def published_twice(listed: Collection[str]) -> list[str]:
    """Return what `needed` assumes, in words: one for each part that is published whole and in shards."""
    return [
        f"{whole} is published in shards too, which {index} names; the whole file is taken"
        for whole in _wholes()
        if whole in listed and (index := f"{whole}{_OF_SHARDS}") in listed
    ]


def _wholes() -> list[str]:
    return [f"{part}/{name}" for part, name in WEIGHTS.items()]


def has_upscaler(folder: Path) -> bool:
    """Return whether the index of the checkpoint in *folder* names an upscaler.

    Raises:
        CheckpointError: The index is unreadable, or names an upscaler of another kind.
    """
    path = folder / INDEX
    entry = read_json(path).get(UPSCALER)
    if entry is None or entry == [None, None]:
        return False
    if not isinstance(entry, list) or len(entry) != 2 or entry[1] != UPSCALER_CLASS:
        raise CheckpointError(f"{path}: {UPSCALER} is {entry}, not a {UPSCALER_CLASS}")
    return True


def upscaler_files() -> tuple[str, str]:
    """Return the two files of the part: its configuration and its weights."""
    return f"{UPSCALER}/config.json", f"{UPSCALER}/{UPSCALER_WEIGHTS}"


def require_complete(folder: Path, recipe: Recipe) -> None:
    """Refuse a folder that lacks what a start of *recipe* reads.

    Index and configurations are there and are JSON, the index names the parts that this program knows, and each weight
    file that a part's index names is there, as long as its own header says.

    Raises:
        CheckpointError: The detail names the file.
    """
    check_index(folder)
    for config in _configs(recipe):
        read_json(folder / config)
    for part in CLASSES:
        for path in weight_files(folder / part):
            read_header(path)
    if has_upscaler(folder):
        of_config, of_weights = upscaler_files()
        read_json(folder / of_config)
        read_header(folder / of_weights)


def _configs(recipe: Recipe) -> list[str]:
    configs = ["tokenizer/tokenizer_config.json", *(f"{part}/config.json" for part in CLASSES)]
    return [*configs, SCHEDULER] if recipe.sampler is Sampler.UNIPC else configs


def check_index(folder: Path) -> None:
    """Refuse the index of another pipeline, or of other parts.

    Raises:
        CheckpointError: It is missing, unreadable, or names another class.
    """
    path = folder / INDEX
    index = read_json(path)
    if index.get("_class_name") not in _PIPELINES:
        raise CheckpointError(
            f"{path} describes a {index.get('_class_name')}, not a {' or a '.join(_PIPELINES)}"
        )
    for part, expected in CLASSES.items():
        entry = index.get(part)
        given = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
        if given != expected:
            raise CheckpointError(f"{path}: {part} is a {given}, not a {expected}")


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files of the model in *folder*, whose name says which part it is.

    Raises:
        CheckpointError: An index names no shards; or there are two sets of weights, and nothing says which is meant.
    """
    whole = folder / WEIGHTS[folder.name]
    index = folder / f"{whole.name}{_OF_SHARDS}"
    if not index.exists():
        return [whole]
    names = _shards(index)
    if whole.exists() and whole.name not in names:
        raise CheckpointError(
            f"{folder} holds two sets of weights: {whole.name}, and the shards that {index.name} names; "
            "remove the one that is not meant"
        )
    return [folder / name for name in names]


def text_encoder_bytes(folder: Path, packing: Packing) -> int:
    """Return what the text encoder of the checkpoint in *folder* takes in memory; only headers are read.

    Raises:
        CheckpointError: A file of it is damaged.
    """
    headers = [read_header(path) for path in weight_files(folder / "text_encoder")]
    shapes = {name: entry.shape for header in headers for name, entry in header.items()}
    if _TABLE in shapes:
        shapes.pop(_SAME_TABLE, None)
    return sum(math.prod(shape) for shape in shapes.values()) * (2 if packing.dtype == "bfloat16" else 4)


def _shards(index: Path) -> list[str]:
    """Return the names of the shards that *index* names, each once."""
    weight_map = read_json(index).get("weight_map")
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise CheckpointError(f"{index} does not name the shards of this folder")
    return sorted(set(names))


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in the file at *path*.

    Raises:
        CheckpointError: The file is missing or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return content
