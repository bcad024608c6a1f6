"""Stage `export`: the trained parts as one checkpoint folder, in the layout of Wan 2.1 in diffusers."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from training.report import save_json
from training.sampling import served_scheduler, teacher_scheduler

MAX_FILE_BYTES = 15 * 2**20
MAX_TOTAL_BYTES = 40 * 10**6

MODEL_INDEX: dict[str, Any] = {
    "_class_name": "WanPipeline",
    "_diffusers_version": "0.42.1",
    "boundary_ratio": None,
    "expand_timesteps": False,
    "scheduler": ["diffusers", "UniPCMultistepScheduler"],
    "text_encoder": ["transformers", "UMT5EncoderModel"],
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    "transformer": ["diffusers", "WanTransformer3DModel"],
    "transformer_2": [None, None],
    "vae": ["diffusers", "AutoencoderKLWan"],
}


def export(state: Path, folder: Path, model_card: Path, *, part: str = "student") -> int:
    """Assemble *folder* from *state*; return its size in bytes.

    Args:
        state: Folder of the run.
        folder: The checkpoint; what is there is replaced.
        model_card: Goes with it.
        part: Which denoiser ships: `student`, or `teacher` as long as there is no student worth it.

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
    save_json(folder / "model_index.json", MODEL_INDEX)
    shutil.copy(model_card, folder / "MODEL_CARD.md")
    return write_manifest(folder)


def write_manifest(folder: Path) -> int:
    """Write size and SHA-256 of every file into `manifest.json`; return the total size in bytes.

    Raises:
        ValueError: A file or the whole is larger than what may ship.
    """
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "manifest.json":
            content = path.read_bytes()
            if len(content) >= MAX_FILE_BYTES:
                raise ValueError(f"{path} has {len(content)} bytes; a file may have {MAX_FILE_BYTES}")
            files[path.relative_to(folder).as_posix()] = {
                "size_bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
    total = sum(int(entry["size_bytes"]) for entry in files.values())
    if total > MAX_TOTAL_BYTES:
        raise ValueError(f"{folder} has {total} bytes; a checkpoint may have {MAX_TOTAL_BYTES}")
    save_json(folder / "manifest.json", {"files": files})
    return total


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
