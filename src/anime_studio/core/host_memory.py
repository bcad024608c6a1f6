"""How much host memory this process may use: what its control group allows, not what the host has."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def usable_memory_bytes(cgroup: Path = _CGROUP) -> int:
    """Return the bytes of host memory that this process may use, in use by others or not.

    Args:
        cgroup: Where the control group's files are (`man 7 cgroups`): version 2 has `memory.max`, version 1
            `memory/memory.limit_in_bytes`, which is huge where there is no limit.
    """
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [_limit(cgroup / name) for name in ("memory.max", "memory/memory.limit_in_bytes")]
    return min([installed, *(limit for limit in limits if limit is not None)])


def _limit(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such file, or `max`
        return None
