"""Attention in the dtype of its tensors, by the kernel that torch picks."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return attention of (batch, tokens, heads, width) tensors, in the same layout.

    Args:
        query: Its tokens are those of the result.
        key: Of any number of tokens.
        value: One for each key.
    """
    q, k, v = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
