"""Prompt to embeddings, as `WanPipeline.encode_prompt` does it, and a cache of them.

Embeddings depend only on encoder, prompt and length, so a repeated prompt costs nothing: they are
kept in memory, then on disk. A damaged cache file is ignored and written again.

Source: diffusers 0.42.1, `pipeline_wan.py`, `prompt_clean` and `_get_t5_prompt_embeds`.
"""

from __future__ import annotations

import hashlib
import html
import os
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import ftfy
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from anime_studio.weights import MANIFEST, read_manifest, sha256_of

_DECIDING = ("text_encoder/", "tokenizer/")
MEMORY_ENTRIES = 64
"""About 270 MB of UMT5-XXL embeddings at most: 512 tokens x 4096 x 2 bytes each."""


def clean(prompt: str) -> str:
    """Return *prompt* with mojibake mended, HTML entities resolved and white space folded."""
    mended = html.unescape(html.unescape(ftfy.fix_text(prompt)))
    return re.sub(r"\s+", " ", mended).strip()


def encoder_revision(folder: Path) -> str:
    """Return a hash of the checkpoint's text encoder and tokenizer, by its manifest; without one, of the files.

    Not the folder's name: the packaged checkpoint keeps its folder when its weights are replaced, and old
    embeddings under new weights would draw something else in silence.

    Raises:
        CheckpointError: The manifest cannot be read.
    """
    if (folder / MANIFEST).exists():
        hashes = {name: str(entry["sha256"]) for name, entry in read_manifest(folder).items()}
    else:
        hashes = {
            path.relative_to(folder).as_posix(): sha256_of(path)
            for part in _DECIDING
            for path in (folder / part).rglob("*")
            if path.is_file()
        }
    deciding = sorted(item for item in hashes.items() if item[0].startswith(_DECIDING))
    return hashlib.sha256(repr(deciding).encode()).hexdigest()


class PromptEncoder:
    """Turns prompts into embeddings.

    Args:
        tokenizer: The checkpoint's tokenizer.
        text_encoder: Its UMT5 encoder.
        max_sequence_length: Tokens kept; shorter prompts are padded with zero vectors.
        revision: Names the encoder in the cache.
        cache_dir: Where embeddings are kept between runs; None keeps them in memory only.
    """

    def __init__(
        self,
        tokenizer: Any,
        text_encoder: Any,
        *,
        max_sequence_length: int,
        revision: str,
        cache_dir: Path | None,
    ) -> None:
        self._tokenizer = tokenizer
        self._text_encoder = text_encoder
        self._max_sequence_length = max_sequence_length
        self._revision = revision
        self._cache_dir = cache_dir
        self._memory: OrderedDict[str, torch.Tensor] = OrderedDict()

    def encode(self, prompt: str) -> torch.Tensor:
        """Return the embeddings of *prompt*: (1, max_sequence_length, text_dim), on the encoder's device."""
        key = self._key(prompt)
        embeddings = self._memory.get(key)
        if embeddings is None:
            embeddings = self._from_disk(key)
        if embeddings is None:
            embeddings = self._compute(prompt)
            self._to_disk(key, embeddings)
        self._memory[key] = embeddings
        self._memory.move_to_end(key)
        if len(self._memory) > MEMORY_ENTRIES:
            self._memory.popitem(last=False)
        return embeddings

    @torch.inference_mode()
    def _compute(self, prompt: str) -> torch.Tensor:
        tokens = self._tokenizer(
            [clean(prompt)],
            padding="max_length",
            max_length=self._max_sequence_length,
            truncation=True,
            add_special_tokens=True,
            return_attention_mask=True,
            return_tensors="pt",
        )
        device = next(self._text_encoder.parameters()).device
        mask = tokens.attention_mask.to(device)
        hidden: torch.Tensor = self._text_encoder(tokens.input_ids.to(device), mask).last_hidden_state
        embeddings: torch.Tensor = hidden * mask[..., None].to(hidden.dtype)
        return embeddings

    def _key(self, prompt: str) -> str:
        dtype = next(self._text_encoder.parameters()).dtype
        parts = (self._revision, str(dtype), str(self._max_sequence_length), clean(prompt))
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def _from_disk(self, key: str) -> torch.Tensor | None:
        if self._cache_dir is None:
            return None
        try:
            kept: torch.Tensor = load_file(self._cache_dir / f"{key}.safetensors")["embeddings"]
        except (OSError, SafetensorError, KeyError):
            return None
        on_device: torch.Tensor = kept.to(next(self._text_encoder.parameters()).device)
        return on_device

    def _to_disk(self, key: str, embeddings: torch.Tensor) -> None:
        if self._cache_dir is None:
            return
        temporary = self._cache_dir / f"{key}.{os.getpid()}.tmp"
        try:
            self._cache_dir.mkdir(parents=True, exist_ok=True)
            save_file({"embeddings": embeddings.cpu().contiguous()}, temporary)
            temporary.replace(self._cache_dir / f"{key}.safetensors")
        except (OSError, SafetensorError):  # a cache that cannot be written costs time, not the job
            temporary.unlink(missing_ok=True)
