"""Tensor names of Wan 2.1's VAE: diffusers' on one side, those of its authors on the other.

The shapes are the same under both; only names differ, so a file in the authors' layout is read by renaming.

Sources: Wan-Video/Wan2.1 at 9737cba, `wan/modules/vae.py` (`WanVAE_`, `Encoder3d`, `Decoder3d`, `ResidualBlock`,
`AttentionBlock`, `Resample`); diffusers 0.42.1, `autoencoder_kl_wan.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_RESIDUAL: Final[Mapping[str, str]] = {
    "norm1": "residual.0",
    "conv1": "residual.2",
    "norm2": "residual.3",
    "conv2": "residual.6",
    "conv_shortcut": "shortcut",
}
"""Parts of a residual block; what is none of these is named alike: an attention's, a resampler's."""
_ENDS: Final[Mapping[str, str]] = {"conv_in": "conv1", "norm_out": "head.0", "conv_out": "head.2"}
_MIDDLE: Final[Mapping[str, str]] = {"resnets.0": "0", "attentions.0": "1", "resnets.1": "2"}
_PATTERN: Final = re.compile(
    r"""
    (?P<quant>post_quant_conv|quant_conv)\.(?P<quant_rest>\w+)
    | (?P<side>encoder|decoder)\.(?:
        (?P<end>conv_in|norm_out|conv_out)\.(?P<end_rest>\w+)
        | mid_block\.(?P<middle>resnets\.[01]|attentions\.0)\.(?P<middle_rest>.+)
        | down_blocks\.(?P<down>\d+)\.(?P<down_rest>.+)
        | up_blocks\.(?P<up>\d+)\.(?P<kind>resnets|upsamplers)\.(?P<index>\d+)\.(?P<up_rest>.+)
    )
    """,
    re.VERBOSE,
)


def wan_name(name: str, *, num_res_blocks: int) -> str:
    """Return what Wan's authors call the tensor that diffusers calls *name*.

    Args:
        name: A key of `AutoencoderKLWan.state_dict()`, not of a residual one (Wan 2.2's).
        num_res_blocks: Of the VAE's configuration: a decoder block has one more.

    Raises:
        KeyError: There is no such tensor in Wan 2.1's VAE.
    """
    found = _PATTERN.fullmatch(name)
    if found is None:
        raise KeyError(name)
    part = found.groupdict()
    if part["quant"]:
        return f"{'conv2' if part['quant'] == 'post_quant_conv' else 'conv1'}.{part['quant_rest']}"
    if part["end"]:
        return f"{part['side']}.{_ENDS[part['end']]}.{part['end_rest']}"
    if part["middle"]:
        return f"{part['side']}.middle.{_MIDDLE[part['middle']]}.{_inner(part['middle_rest'])}"
    if part["down"]:
        return f"{part['side']}.downsamples.{part['down']}.{_inner(part['down_rest'])}"
    # A decoder block's residual blocks and the doubling after them are counted through.
    resnets = num_res_blocks + 1
    within = int(part["index"]) if part["kind"] == "resnets" else resnets
    return f"{part['side']}.upsamples.{int(part['up']) * (resnets + 1) + within}.{_inner(part['up_rest'])}"


def _inner(rest: str) -> str:
    head, _, tail = rest.partition(".")
    return f"{_RESIDUAL.get(head, head)}.{tail}"
