"""How many embeddings of prompts are stored, so that neither memory nor disk fills up on a long evening."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EmbeddingsBounds:
    """The bounds of the cache of embeddings; of each pair the one that is reached first holds, and the newest stay.

    One prompt of Wan has 4 MiB: 512 tokens x 4096 numbers x 2 bytes (`umt5-xxl`, bfloat16).

    Attributes:
        max_count: Most prompts on the disk.
        max_bytes: Most bytes on the disk.
        memory_max_count: Most prompts in memory: the GPU's, where the text is encoded there.
        memory_max_bytes: Most bytes in memory.
    """

    max_count: int = 512
    max_bytes: int = 1024**3
    memory_max_count: int = 64
    memory_max_bytes: int = 256 * 1024**2
