"""Prompt to embeddings, as `WanPipeline.encode_prompt` does it.

Embeddings depend only on encoder, prompt and length, so they are stored (`engine.embeddings_cache`).

Only the prompt's own tokens are encoded. The pipeline pads to 512 tokens, masks the padding and then overwrites it with
zeros. The mask keeps the padding from changing the real tokens, so they are the same without it, in a tenth of the
arithmetic.

Source: diffusers 0.42.1, `pipeline_wan.py`, `prompt_clean` and `_get_t5_prompt_embeds`.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, Self

import ftfy
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from safetensors.torch import load, save

from anime_studio.checkpoints.manifest import MANIFEST, Manifest
from anime_studio.core.prompts import canonical
from anime_studio.engine.embeddings_cache import EmbeddingsCache
from common.schemas import ClipSpec

_ENCODER_FOLDERS = ("text_encoder/", "tokenizer/")
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
    """Turns prompts into embeddings, for several threads if need be. Satisfies `TextSource`.

    Args:
        tokenizer: The checkpoint's tokenizer.
        text_encoder: Its UMT5 encoder.
        max_sequence_length: Longer prompts are truncated to this many tokens; the embeddings of shorter ones end with
            zero vectors.
        revision: Names the encoder in the cache.
        cache: Where embeddings are stored; None for memory only.
    """

    def __init__(
        self,
        tokenizer: Any,
        text_encoder: Any,
        *,
        max_sequence_length: int,
        revision: str,
        cache: EmbeddingsCache | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._text_encoder = text_encoder
        self._max_sequence_length = max_sequence_length
        self._revision = revision
        self._cache = cache or EmbeddingsCache()
        self._one_at_a_time = threading.RLock()  # a tokenizer keeps how it truncates from call to call

    @property
    def device(self) -> torch.device:
        """Where the encoder is."""
        device: torch.device = next(self._text_encoder.parameters()).device
        return device

    def text_of(self, spec: ClipSpec, waiting: Waiting = lambda: None) -> EncodedText:  # noqa: ARG002  it waits for nobody
        """See `TextSource.text_of`."""
        guided = spec.guidance_scale is not None
        return EncodedText(
            prompt=self.encode(spec.prompt_used),
            negative=self.encode(spec.negative_prompt or "") if guided else None,
            num_tokens=self.count_tokens(spec.prompt),
        )

    def encode(self, prompt: str) -> torch.Tensor:
        """Return the embeddings of *prompt*: (1, max_sequence_length, text_dim), on the encoder's device.

        Raises:
            EngineError: They hold NaN or infinity; they are not stored.
        """
        key, device = self._key(prompt), self.device
        if (stored := self._cache.get(key, device)) is not None:
            return stored
        with self._one_at_a_time:
            if (stored := self._cache.get(key, device)) is not None:  # another thread was faster
                return stored
            embeddings = self.compute(prompt)
            self._cache.put(key, embeddings)
            return embeddings

    def count_tokens(self, prompt: str) -> int:
        """Return how many tokens *prompt* has, with those that the tokenizer adds."""
        with self._one_at_a_time:
            return len(self._tokenizer(clean(prompt), add_special_tokens=True, verbose=False).input_ids)

    @torch.inference_mode()
    def compute(self, prompt: str) -> torch.Tensor:
        """Return the embeddings of *prompt* as `encode` does, without the cache."""
        with self._one_at_a_time:
            tokens = self._tokenizer(
                [clean(prompt)],
                max_length=self._max_sequence_length,
                truncation=True,
                add_special_tokens=True,
                return_tensors="pt",
            ).input_ids
        hidden: torch.Tensor = self._text_encoder(tokens.to(self.device)).last_hidden_state
        return _padded(hidden, self._max_sequence_length)

    def _key(self, prompt: str) -> str:
        weight = next(self._text_encoder.parameters())
        computed = f"{weight.dtype} on {weight.device.type}, {_COMPUTED}"
        parts = (self._revision, computed, str(self._max_sequence_length), clean(prompt))
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _padded(embeddings: torch.Tensor, length: int) -> torch.Tensor:
    return F.pad(embeddings, (0, 0, 0, length - embeddings.shape[1]))


def _tokens(padded: torch.Tensor) -> torch.Tensor:
    """Return *padded* without the zero vectors at its end."""
    used = padded[0].any(dim=1).nonzero()
    return padded[:, : int(used.max()) + 1].cpu().contiguous()
