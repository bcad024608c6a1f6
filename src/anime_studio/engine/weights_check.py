"""Whether loaded weights can be what somebody trained: told at the start, once, and not by each job.

Files are compared with their hashes when they are fetched; this finds what was published, prepared or converted broken.
Each weight is read once, for its least and largest number. The rest looks at a sample, so that a start pays almost nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch

from anime_studio.core.errors import CheckpointError
from anime_studio.engine.text import PromptEncoder

KNOWN_PROMPT: Final = "a cat on a roof"
_LEAST_STD: Final = 1e-6
"""Far below any text encoder's: between tokens a channel differs by 0.1 and more."""
_SAMPLE: Final = 65_536
"""Numbers of each weight, evenly spread."""
_LARGEST_RMS: Final = 1e6
"""Far above any weight's root mean square. Four in ten 16-bit patterns are larger as bfloat16, so bytes that are no
numbers are above it for certain."""
_ZERO_MATRICES: Final = 0.1
"""Training may leave a matrix at zero, but not this share of a part's; a shard that a disk lost is more."""


def check_weights(folder: Path, name: str, model: torch.nn.Module) -> None:
    """Refuse the weights of *model*, the part *name* of the checkpoint in *folder*, if no training gives them.

    Raises:
        CheckpointError: One holds NaN or infinity, or is far too large; or many are all zeros. The detail names it.
    """
    matrices, zeros = 0, []
    for weight, tensor in _weights_of(model):
        if not holds_numbers(tensor):
            raise CheckpointError(f"{folder / name}: weight {weight} holds NaN or infinity")
        rms = _root_mean_square(tensor)
        if rms > _LARGEST_RMS:
            raise CheckpointError(
                f"{folder / name}: weight {weight} is {rms:.1e} in the root mean square; it holds no trained numbers"
            )
        matrices += tensor.dim() > 1
        if tensor.dim() > 1 and rms == 0:
            zeros.append(weight)
    if len(zeros) > _ZERO_MATRICES * matrices:
        raise CheckpointError(
            f"{folder / name}: {len(zeros)} of {matrices} weight matrices are all zeros, the first is {zeros[0]}"
        )


def check_embeddings(folder: Path, encoder: PromptEncoder) -> None:
    """Refuse a text encoder that says the same of each word of a known prompt, or NaN.

    Raises:
        CheckpointError: It does.
    """
    embeddings = encoder.compute(KNOWN_PROMPT)
    tokens = embeddings[0, : len(KNOWN_PROMPT.split())].float()
    if not torch.isfinite(embeddings).all() or float(tokens.std(dim=0).max()) < _LEAST_STD:
        raise CheckpointError(
            f"{folder / 'text_encoder'}: the embedding of {KNOWN_PROMPT!r} is the same for each token, or NaN"
        )


def holds_numbers(tensor: torch.Tensor) -> bool:
    """Return whether a weight, of any dtype, is free of NaN and infinity."""
    if tensor.dtype is torch.float8_e4m3fn:  # no arithmetic; NaN is all ones but the sign (OCP FP8, table 1)
        return not bool(((tensor.view(torch.uint8) & 0x7F) == 0x7F).any())
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    # Both are NaN if any number is. On a CPU a sum of bfloat16 in float32 takes fourteen times as long.
    least, most = torch.aminmax(tensor)
    return bool(torch.isfinite(least) and torch.isfinite(most))


def _weights_of(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield each weight once, though it has two names, as the text encoder's table."""
    seen: set[int] = set()
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            yield name, tensor


def _root_mean_square(tensor: torch.Tensor) -> float:
    flat = tensor.reshape(-1)
    sample = flat[:: max(1, flat.numel() // _SAMPLE)].to(torch.float32)
    return float(sample.square().mean().sqrt())
