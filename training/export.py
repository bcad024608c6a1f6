"""Stage `export`: the trained parts as one checkpoint folder, in the layout of Wan 2.1 in diffusers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from anime_studio.checkpoints.manifest import Manifest
from anime_studio.checkpoints.pipeline_files import UPSCALER, UPSCALER_CLASS
from anime_studio.engine.loading.tiny_random import MODEL_INDEX
from training.report import save_json
from training.sampling import served_scheduler, teacher_scheduler

MAX_FILE_BYTES = 15 * 2**20
MAX_TOTAL_BYTES = 40 * 10**6


def export(state: Path, folder: Path, model_card: Path, *, part: str = "student") -> int:
    """Assemble *folder* from *state*; return its size in bytes.

    Args:
        state: Folder of the run.
        folder: The checkpoint; what is there is replaced.
        model_card: Goes with it.
        part: Which denoiser ships: `student`, or `teacher` if no student is good enough.

    Raises:
        ValueError: A file or the whole is larger than what may ship.
    """
    if folder.exists():
        shutil.rmtree(folder)
    shutil.copytree(state / part, folder)
    shutil.copytree(state / "vae", folder / "vae")
    scheduler = served_scheduler() if part == "student" else teacher_scheduler()
    scheduler.save_pretrained(folder / "scheduler")
    _name_tokenizer_class(folder / "tokenizer" / "tokenizer_config.json")
    _forget_where_it_was_made(folder)
    save_json(folder / "model_index.json", MODEL_INDEX | _upscaler_of(state, folder))
    shutil.copy(model_card, folder / "MODEL_CARD.md")
    return write_manifest(folder)


def write_manifest(folder: Path) -> int:
    """Write the checkpoint's manifest; return the size of all files in bytes.

    Raises:
        ValueError: A file or the whole is larger than what may ship.
    """
    manifest = Manifest.of(folder)
    for name, entry in manifest.files.items():
        if entry.size_bytes >= MAX_FILE_BYTES:
            raise ValueError(
                f"{folder / name} has {entry.size_bytes} bytes; a file may have {MAX_FILE_BYTES}"
            )
    if manifest.size_bytes > MAX_TOTAL_BYTES:
        raise ValueError(f"{folder} has {manifest.size_bytes} bytes; a checkpoint may have {MAX_TOTAL_BYTES}")
    manifest.write(folder)
    return manifest.size_bytes


def _upscaler_of(state: Path, folder: Path) -> dict[str, list[str]]:
    """Copy the upscaler, if *state* has one; return what the index says of it."""
    if not (state / UPSCALER).exists():
        return {}
    shutil.copytree(state / UPSCALER, folder / UPSCALER)
    return {UPSCALER: ["anime_studio", UPSCALER_CLASS]}


def _name_tokenizer_class(path: Path) -> None:
    """Name the class that every transformers since 4 can load; 5 writes its own backend's name."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    save_json(path, config)


def _forget_where_it_was_made(folder: Path) -> None:
    for path in folder.glob("*/config.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)
        save_json(path, config)
