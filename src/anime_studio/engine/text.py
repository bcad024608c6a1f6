"""Prompt to embeddings, as `WanPipeline.encode_prompt` does it, and a cache of them.

Embeddings depend only on encoder, prompt and length, so they are stored, in memory and then on the disk, and a repeated
prompt costs nothing. A damaged cache file is ignored and written again.

Only the prompt's own tokens are encoded. The pipeline pads to 512 tokens, masks the padding and then overwrites it with
zeros. The mask keeps the padding from changing the real tokens, so they are the same without it, in a tenth of the
arithmetic.

Source: diffusers 0.42.1, `pipeline_wan.py`, `prompt_clean` and `_get_t5_prompt_embeds`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, Self

import ftfy
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save, save_file

from anime_studio.checkpoints.manifest import MANIFEST, Manifest
from anime_studio.core.errors import EngineError
from anime_studio.core.prompts import canonical
from common.schemas import ClipSpec

_ENCODER_FOLDERS = ("text_encoder/", "tokenizer/")
MEMORY_ENTRIES = 64
"""About 270 MB of UMT5-XXL embeddings at most: 512 tokens x 4096 x 2 bytes each."""
DISK_ENTRIES = 512
DISK_BYTES = 1024**3
"""Bounds of the cache on the disk. The entries unused for longest go first."""
_COMPUTED = "own-tokens"
"""How embeddings are computed; part of the cache's key, because other ways give other last bits."""

Waiting = Callable[[], None]
"""Called now and then while a text is waited for; it raises when the job must stop."""
_PROMPT: Final = "prompt"
_NEGATIVE: Final = "negative"
_NUM_TOKENS: Final = "num_tokens"


@dataclass(frozen=True, slots=True)
class EncodedText:
    """A clip's text as the denoiser reads it.

    Attributes:
        prompt: (1, max_sequence_length, text_dim).
        negative: The same of the negative prompt; None without guidance.
        num_tokens: Of the prompt as it was asked for, before anything is cut off.
    """

    prompt: torch.Tensor
    negative: torch.Tensor | None
    num_tokens: int

    def to_bytes(self) -> bytes:
        """Return the embeddings of the tokens alone, without the zeros after them, as a safetensors file."""
        tensors = {_PROMPT: _tokens(self.prompt), _NUM_TOKENS: torch.tensor(self.num_tokens)}
        if self.negative is not None:
            tensors[_NEGATIVE] = _tokens(self.negative)
        return save(tensors)

    @classmethod
    def from_bytes(cls, content: bytes, max_sequence_length: int) -> Self:
        """Return what `to_bytes` was given, on the CPU."""
        tensors = load(content)
        padded = {
            name: _padded(tensors[name], max_sequence_length)
            for name in (_PROMPT, _NEGATIVE)
            if name in tensors
        }
        return cls(padded[_PROMPT], padded.get(_NEGATIVE), int(tensors[_NUM_TOKENS]))


class TextSource(Protocol):
    """Where the engine gets a clip's text: an encoder of its own, or another container's."""

    def text_of(self, spec: ClipSpec, waiting: Waiting = ...) -> EncodedText:
        """Return the text of *spec*, on any device.

        Raises:
            AnimeStudioError: There is none; or what *waiting* raised.
        """


def clean(prompt: str) -> str:
    """Return *prompt* with mojibake fixed, in its canonical form, and with white space folded."""
    return re.sub(r"\s+", " ", canonical(ftfy.fix_text(prompt))).strip()


def encoder_revision(folder: Path) -> str:
    """Return a hash of the checkpoint's text encoder and tokenizer, by its manifest; without one, of the files.

    The folder's name would not do: the packaged checkpoint keeps its folder when its weights are replaced, and
    cached embeddings of the old weights would give other clips without a word.

    Raises:
        CheckpointError: The manifest cannot be read.
    """
    manifest = Manifest.read(folder) if (folder / MANIFEST).exists() else Manifest.of(folder)
    files = manifest.files.items()
    encoder = sorted((name, entry.sha256) for name, entry in files if name.startswith(_ENCODER_FOLDERS))
    return hashlib.sha256(repr(encoder).encode()).hexdigest()


class PromptEncoder:
    """Turns prompts into embeddings. Satisfies `TextSource`.

    Args:
        tokenizer: The checkpoint's tokenizer.
        text_encoder: Its UMT5 encoder.
        max_sequence_length: Longer prompts are truncated to this many tokens; the embeddings of shorter ones end with
            zero vectors.
        revision: Names the encoder in the cache.
        cache_dir: Where embeddings are stored between runs; None for memory only.
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

    def text_of(self, spec: ClipSpec, waiting: Waiting = lambda: None) -> EncodedText:  # noqa: ARG002  it waits for nobody
        """See `TextSource.text_of`."""
        guided = spec.guidance_scale is not None
        return EncodedText(
            prompt=self.encode(spec.prompt_used),
            negative=self.encode(spec.negative_prompt or "") if guided else None,
            num_tokens=self.count_tokens(spec.prompt),
        )

    def encode(self, prompt: str) -> torch.Tensor:
        """Return the embeddings of *prompt*: (1, max_sequence_length, text_dim), on the encoder's device."""
        key = self._key(prompt)
        embeddings = self._memory.get(key)
        if embeddings is None:
            embeddings = self._from_disk(key)
        if embeddings is None:
            embeddings = self.compute(prompt)
            if not torch.isfinite(embeddings).all():  # never cached: it would poison its prompt for ever
                raise EngineError(
                    "the text encoder gave NaN or infinity; the same prompt may work at the next try"
                )
            self._to_disk(key, embeddings)
        self._memory[key] = embeddings
        self._memory.move_to_end(key)
        if len(self._memory) > MEMORY_ENTRIES:
            self._memory.popitem(last=False)
        return embeddings

    def count_tokens(self, prompt: str) -> int:
        """Return how many tokens *prompt* has, with those that the tokenizer adds."""
        return len(self._tokenizer(clean(prompt), add_special_tokens=True, verbose=False).input_ids)

    @torch.inference_mode()
    def compute(self, prompt: str) -> torch.Tensor:
        """Return the embeddings of *prompt* as `encode` does, without the cache."""
        tokens = self._tokenizer(
            [clean(prompt)],
            max_length=self._max_sequence_length,
            truncation=True,
            add_special_tokens=True,
            return_tensors="pt",
        ).input_ids
        device = next(self._text_encoder.parameters()).device
        hidden: torch.Tensor = self._text_encoder(tokens.to(device)).last_hidden_state
        return _padded(hidden, self._max_sequence_length)

    def _key(self, prompt: str) -> str:
        weight = next(self._text_encoder.parameters())
        computed = f"{weight.dtype} on {weight.device.type}, {_COMPUTED}"
        parts = (self._revision, computed, str(self._max_sequence_length), clean(prompt))
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def _from_disk(self, key: str) -> torch.Tensor | None:
        if self._cache_dir is None:
            return None
        try:
            path = self._cache_dir / f"{key}.safetensors"
            stored: torch.Tensor = load_file(path)["embeddings"]
            os.utime(path)  # used now: it goes last
        except (OSError, SafetensorError, KeyError):
            return None
        if not torch.isfinite(stored).all():
            return None
        on_device: torch.Tensor = stored.to(next(self._text_encoder.parameters()).device)
        return on_device

    def _to_disk(self, key: str, embeddings: torch.Tensor) -> None:
        if self._cache_dir is None:
            return
        temporary = self._cache_dir / f"{key}.{os.getpid()}.tmp"
        try:
            self._cache_dir.mkdir(parents=True, exist_ok=True)
            save_file({"embeddings": embeddings.cpu().contiguous()}, temporary)
            temporary.replace(self._cache_dir / f"{key}.safetensors")
            remove_unused(self._cache_dir, DISK_ENTRIES, DISK_BYTES)
        except (OSError, SafetensorError):  # a cache that cannot be written costs time, not the job
            temporary.unlink(missing_ok=True)


def _padded(embeddings: torch.Tensor, length: int) -> torch.Tensor:
    return F.pad(embeddings, (0, 0, 0, length - embeddings.shape[1]))


def _tokens(padded: torch.Tensor) -> torch.Tensor:
    """Return *padded* without the zero vectors at its end."""
    used = padded[0].any(dim=1).nonzero()
    return padded[:, : int(used.max()) + 1].cpu().contiguous()


def remove_unused(cache_dir: Path, max_entries: int, max_bytes: int) -> None:
    """Remove the entries beyond either bound, those unused for longest first, and what a killed process left."""
    stats = [(path, path.stat()) for path in cache_dir.iterdir() if path.suffix in (".safetensors", ".tmp")]
    stats.sort(key=lambda entry: entry[1].st_mtime_ns, reverse=True)
    total_bytes = 0
    for index, (path, stat) in enumerate(stats):
        total_bytes += stat.st_size
        if index >= max_entries or total_bytes > max_bytes:
            path.unlink(missing_ok=True)
