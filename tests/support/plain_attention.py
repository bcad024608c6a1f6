"""Self-attention as plain torch operations compute it, and cases on which 8-bit kernels err."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Case:
    """What `int8_attention` is given."""

    qkv: torch.Tensor
    gain_q: torch.Tensor
    gain_k: torch.Tensor
    rotary: tuple[torch.Tensor, torch.Tensor]
    heads: int
    epsilon: float = 1e-6

    @property
    def given(self) -> tuple:
        return self.qkv, self.gain_q, self.gain_k, self.rotary, self.heads, self.epsilon


def random_case(
    tokens: int,
    heads: int,
    width: int,
    *,
    peak: float = 1.0,
    key_offset: float = 0.0,
    value_mean: float = 0.0,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Case:
    """Return random queries, keys and values; `peak` sharpens the weights, `key_offset` is what keys share."""
    chance = torch.Generator(device).manual_seed(0)
    dim = heads * width

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=chance, device=device)

    qkv = drawn(1, tokens, 3 * dim)
    qkv[..., dim : 2 * dim] += key_offset * drawn(dim)
    qkv[..., 2 * dim :] += value_mean * drawn(dim)
    angles = torch.arange(tokens, device=device)[:, None] * torch.logspace(0, -4, width // 2, device=device)
    rotary = (angles.cos()[None, :, None], angles.sin()[None, :, None])
    gain = torch.full((dim,), peak, device=device)
    return Case(qkv.to(dtype), gain, 0.5 + torch.rand(dim, generator=chance, device=device), rotary, heads)


def plain_attention(
    case: Case, rows: torch.Tensor | None = None, allowed: torch.Tensor | None = None
) -> torch.Tensor:
    """Return (rows, heads x width) in float64: norm over all heads, rotary embedding, softmax.

    Args:
        case: See `Case`.
        rows: Which queries; all if None.
        allowed: (heads, queries, keys), bool: which keys a query sees; all if None.
    """
    tokens, heads = case.qkv.shape[1], case.heads
    query, key, value = normed_and_rotated(case)
    query = query if rows is None else query[rows]
    attended = []
    for head in range(heads):  # one at a time: all would not fit on a GPU at full shape
        logits = query[:, head] @ key[:, head].T / query.shape[-1] ** 0.5
        if allowed is not None:
            logits = logits.masked_fill(~allowed[head], float("-inf"))
        attended.append(logits.softmax(-1) @ value.view(tokens, heads, -1)[:, head])
    return torch.stack(attended, 1).flatten(1)


def normed_and_rotated(case: Case) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return queries and keys (tokens, heads, width), and values (tokens, heads x width), in float64."""
    query, key, value = case.qkv[0].double().chunk(3, dim=-1)
    query, key = (
        _rotated(_normed(x, gain, case.epsilon).view(len(x), case.heads, -1), case.rotary)
        for x, gain in ((query, case.gain_q), (key, case.gain_k))
    )
    return query, key, value


def _normed(x: torch.Tensor, gain: torch.Tensor, epsilon: float) -> torch.Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon) * gain.double()


def _rotated(x: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    cosines, sines = (part[0].double() for part in rotary)
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([first * cosines - second * sines, first * sines + second * cosines], -1).flatten(-2)
