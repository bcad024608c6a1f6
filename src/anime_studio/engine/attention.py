"""Self-attention of the denoiser by the kernel that is asked for.

On Hopper 8-bit attention is cuDNN's own, reached through `nvidia-cudnn-frontend`: query, key and value in e4m3
with one scale each, softmax in float32. On Ampere and Ada it is SageAttention's: query and key in int8 with a
scale for each block of tokens, values in float16. Keys are centred first, which changes no weight of the softmax (it
is the same shift for every key) and spares the 8 bits a common offset (SageAttention, arXiv 2410.02367, section 4.2).

Sources: cudnn-frontend 1.18, `docs/operations/Attention.md`, "Scaled Dot Product Attention FP8"; sageattention 1.0.6.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)

from anime_studio.engine.acceleration import Attention
from anime_studio.engine.linears import E4M3, E4M3_MAX

_SOFTMAX_SCALE = 256.0
"""Softmax weights are at most 1; times this they use e4m3's range, whose end is 448."""


def eight_bit_kernel(device: torch.device) -> Attention | None:
    """Return the 8-bit kernel that *device* has and that is installed and works here, or None."""
    if device.type != "cuda":
        return None
    hopper_or_later = torch.cuda.get_device_capability(device) >= (9, 0)
    kernel, package = (Attention.FP8, "cudnn") if hopper_or_later else (Attention.INT8, "sageattention")
    return kernel if importlib.util.find_spec(package) is not None and _works(kernel, device) else None


def _works(kernel: Attention, device: torch.device) -> bool:
    query, key, value = (torch.randn(1, 128, 1, 128, device=device).bfloat16() for _ in range(3))
    try:
        attend(query, key, value, kernel)
        torch.cuda.synchronize(device)
    except Exception:  # noqa: BLE001 (cuDNN and Triton share no root of their refusals; without them it is slower)
        return False
    return True


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, kernel: Attention = Attention.SDPA
) -> torch.Tensor:
    """Return attention of (batch, tokens, heads, width) tensors, in the same layout.

    Args:
        query: What asks.
        key: What is asked; it may have more or fewer tokens.
        value: What is answered, one for each key.
        kernel: `fp8` or `int8` for an 8-bit kernel.
    """
    if kernel is Attention.FP8:
        return _attend_fp8(query, _centred(key), value)
    if kernel is Attention.INT8:
        narrow: torch.Tensor = _sage_attention(query, _centred(key), value)
        return narrow
    q, k, v = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def _centred(key: torch.Tensor) -> torch.Tensor:
    return key - key.mean(dim=1, keepdim=True, dtype=torch.float32).to(key.dtype)


@torch.library.custom_op("anime_studio::int8_attention", mutates_args=())
def _sage_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    from sageattention import sageattn

    attended: torch.Tensor = sageattn(query, key, value, tensor_layout="NHD", smooth_k=False)
    return attended


@_sage_attention.register_fake
def _(query: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
    return query.new_empty(query.shape)


def _attend_fp8(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    (q, scale_q), (k, scale_k), (v, scale_v) = (_narrow(part) for part in (query, key, value))
    narrow: torch.Tensor = _cudnn_attention(q, k, v, scale_q, scale_k, scale_v)
    return (narrow.float() * scale_v).to(query.dtype)  # a mean of values needs no larger scale than they


def _narrow(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = values.abs().amax().float().clamp_min(1e-12) / E4M3_MAX
    return (values.float() / scale).clamp(-E4M3_MAX, E4M3_MAX).to(E4M3), scale.reshape(1, 1, 1, 1)


@torch.library.custom_op("anime_studio::fp8_attention", mutates_args=())
def _cudnn_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale_q: torch.Tensor,
    scale_k: torch.Tensor,
    scale_v: torch.Tensor,
) -> torch.Tensor:
    """Return e4m3 attention of e4m3 (batch, tokens, heads, width), scaled as *value* is."""
    plan = _plan(tuple(query.shape), tuple(key.shape), query.device.index or 0)
    return plan.run(query.contiguous(), key.contiguous(), value.contiguous(), scale_q, scale_k, scale_v)


@_cudnn_attention.register_fake
def _(query: torch.Tensor, key: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:  # noqa: ARG001
    return query.new_empty(query.shape)


@dataclass(frozen=True)
class _Plan:
    """A built cuDNN graph for one shape, and what it needs at each run."""

    graph: Any
    handle: Any
    inputs: tuple[Any, ...]
    output: Any
    workspace: torch.Tensor
    softmax_scales: tuple[torch.Tensor, torch.Tensor]

    def run(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale_q: torch.Tensor,
        scale_k: torch.Tensor,
        scale_v: torch.Tensor,
    ) -> torch.Tensor:
        import cudnn

        out = torch.empty_like(query)
        given = (query, key, value, scale_q, scale_k, scale_v, *self.softmax_scales, 1.0 / scale_v)
        cudnn.set_stream(handle=self.handle, stream=torch.cuda.current_stream().cuda_stream)
        # cuDNN takes addresses: DLPack, its other way, does not carry e4m3.
        buffers = {tensor: data.data_ptr() for tensor, data in zip(self.inputs, given, strict=True)} | {
            self.output: out.data_ptr()
        }
        self.graph.execute(buffers, self.workspace.data_ptr(), handle=self.handle)
        return out


@functools.lru_cache(maxsize=8)
def _plan(query: tuple[int, ...], key: tuple[int, ...], device: int) -> _Plan:
    import cudnn

    narrow, wide = cudnn.data_type.FP8_E4M3, cudnn.data_type.FLOAT
    handle = cudnn.create_handle()
    graph = cudnn.pygraph(
        io_data_type=narrow, intermediate_data_type=wide, compute_data_type=wide, handle=handle
    )
    inputs = [
        *(
            graph.tensor(dim=_dims(shape), stride=_strides(shape), data_type=narrow)
            for shape in (query, key, key)
        ),
        *(graph.tensor(dim=[1, 1, 1, 1], stride=[1, 1, 1, 1], data_type=wide) for _ in range(6)),
    ]
    names = ("q", "k", "v", "descale_q", "descale_k", "descale_v", "descale_s", "scale_s", "scale_o")
    output, _, amax_s, amax_o = graph.sdpa_fp8(
        **dict(zip(names, inputs, strict=True)),
        attn_scale=1.0 / math.sqrt(query[-1]),
        generate_stats=False,
    )
    output.set_output(True).set_dim(_dims(query)).set_stride(_strides(query)).set_data_type(narrow)
    for amax in (amax_s, amax_o):
        amax.set_output(False).set_dim([1, 1, 1, 1]).set_stride([1, 1, 1, 1]).set_data_type(wide)
    graph.validate()
    graph.build_operation_graph()
    graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
    graph.check_support()
    graph.build_plans()
    on_device = torch.device("cuda", device)
    return _Plan(
        graph=graph,
        handle=handle,
        inputs=tuple(inputs),
        output=output,
        workspace=torch.empty(max(1, graph.get_workspace_size()), dtype=torch.uint8, device=on_device),
        softmax_scales=(
            torch.full((1, 1, 1, 1), 1.0 / _SOFTMAX_SCALE, device=on_device),
            torch.full((1, 1, 1, 1), _SOFTMAX_SCALE, device=on_device),
        ),
    )


def _dims(shape: tuple[int, ...]) -> list[int]:
    batch, tokens, heads, width = shape
    return [batch, heads, tokens, width]


def _strides(shape: tuple[int, ...]) -> list[int]:
    _, tokens, heads, width = shape
    return [tokens * heads * width, width, heads * width, 1]
