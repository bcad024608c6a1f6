"""The tokenizer, the text encoder, and what makes it read well.

A small encoder trained only through the denoiser mixes up whose colour is whose. So its last token, `</s>`, is also
asked outright what the caption names (`Reader`), which teaches it to read in seconds; the denoiser attends to it.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from training.config import TOKENS, Scale
from training.world.captions import Caption, write_caption
from training.world.held_out import write_held_out_prompts
from training.world.scene import ATTRIBUTES, Scene, sample_scene

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
VOCABULARY = 1280


def train_tokenizer(corpus: int, seed: int = 3) -> PreTrainedTokenizerFast:
    """Return a lower-casing BPE tokenizer learned from captions; letters catch words it never saw."""
    rng = random.Random(seed)
    captions = [write_caption(sample_scene(rng), rng).text for _ in range(corpus)]
    captions += [
        prompt.text for _, prompt in write_held_out_prompts(2000, seed)
    ]  # whole words, not their meaning
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder()
    letters = list("abcdefghijklmnopqrstuvwxyz0123456789")
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=10,
        special_tokens=[PAD, END, UNKNOWN],
        initial_alphabet=letters,
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, unk_token=UNKNOWN, model_max_length=TOKENS
    )


def tokenize(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> torch.Tensor:
    """Return token ids, int16 (texts, TOKENS), padded and cut as `WanPipeline` does it."""
    ids = tokenizer(texts, padding="max_length", max_length=TOKENS, truncation=True, add_special_tokens=True)[
        "input_ids"
    ]
    return torch.from_numpy(np.array(ids, np.int16))


def build_text_encoder(scale: Scale, tokenizer: PreTrainedTokenizerFast) -> Any:
    """Return an untrained UMT5 encoder with a row for each token."""
    return UMT5EncoderModel(UMT5Config(vocab_size=len(tokenizer), **scale.text))


def embed(encoder: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Return embeddings (texts, TOKENS, width), zero where there is padding, as `WanPipeline` gives them."""
    mask = (tokens != 0).long()
    hidden: torch.Tensor = encoder(tokens, mask).last_hidden_state
    return hidden * mask[..., None]


class Reader(torch.nn.Module):
    """Reads off the last token what a caption names: one answer per attribute."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = torch.nn.ModuleList(
            [torch.nn.Linear(width, len(values)) for values in ATTRIBUTES.values()]
        )

    def loss(self, embeddings: torch.Tensor, tokens: torch.Tensor, named: torch.Tensor) -> torch.Tensor:
        """Return the mean cross entropy over named attributes.

        Args:
            embeddings: (texts, TOKENS, width).
            tokens: (texts, TOKENS).
            named: (texts, attributes), -1 for what a caption does not name.
        """
        last = (tokens != 0).sum(1) - 1
        summary = embeddings[torch.arange(len(tokens), device=tokens.device), last].float()
        losses = [
            F.cross_entropy(head(summary), named[:, i], ignore_index=-1, reduction="sum")
            for i, head in enumerate(self.heads)
        ]
        return torch.stack(losses).sum() / (named >= 0).sum().clamp(min=1)


def captions_of(
    scenes: list[Scene], rng: random.Random, tokenizer: PreTrainedTokenizerFast, per_clip: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Caption each scene several times.

    Returns:
        Tokens, int16 (scenes, per_clip, TOKENS); what each names, int8 (scenes, per_clip, attributes), -1 if not named.
    """
    captions: list[Caption] = []
    named: list[list[int]] = []
    for scene in scenes:
        labels = scene.labels()
        for _ in range(per_clip):
            caption = write_caption(scene, rng)
            captions.append(caption)
            named.append(
                [
                    label if name in caption.named else -1
                    for name, label in zip(ATTRIBUTES, labels, strict=True)
                ]
            )
    tokens = tokenize(tokenizer, [caption.text for caption in captions])
    return tokens.view(len(scenes), per_clip, TOKENS), torch.tensor(named, dtype=torch.int8).view(
        len(scenes), per_clip, -1
    )


def save_text(folder: Path, tokenizer: PreTrainedTokenizerFast, encoder: Any) -> None:
    """Write `tokenizer` and `text_encoder` into *folder*."""
    tokenizer.save_pretrained(folder / "tokenizer")
    encoder.half().save_pretrained(folder / "text_encoder")
    encoder.float()
