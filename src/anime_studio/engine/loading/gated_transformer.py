"""The denoiser of a checkpoint that was trained with sparse attention: diffusers' own, and a gate beside each layer.

The gate is a linear layer as wide as the layer's values. Its file names it `blocks.N.to_gate_compress.weight` and `.bias`,
60 tensors beside those of diffusers in Wan 2.1 1.3B; `config.json` does not tell. Source: FastVideo 2f3d407,
`models/dits/wanvideo.py` (`WanTransformerBlock_VSA`) and `configs/models/dits/wanvideo.py` (what has no entry in
`param_names_mapping` keeps its name).
"""

from __future__ import annotations

import functools
from typing import Any

from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import nn


class GatedWanTransformer3DModel(WanTransformer3DModel):  # type: ignore[misc]
    """`WanTransformer3DModel`, each of whose blocks has a `to_gate_compress`."""

    # diffusers reads the names of the parameters
    @functools.wraps(WanTransformer3DModel.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        width = self.config.num_attention_heads * self.config.attention_head_dim
        for block in self.blocks:
            block.to_gate_compress = nn.Linear(width, width)
