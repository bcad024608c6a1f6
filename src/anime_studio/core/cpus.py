"""How many processor cores this process may use: what its affinity and its control group allow, not what the host has."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def usable_cores(cgroup: Path = _CGROUP) -> int:
    """Return the cores that this process may keep busy, at least 1.

    A container's limit is a quota of its control group, which affinity does not show. More threads than the quota
    allows are stopped by the kernel for the rest of each period, all at once.

    Args:
        cgroup: Where the control group's files are (`man 7 cgroups`): version 2 has `cpu.max`, version 1
            `cpu/cpu.cfs_quota_us` and `cpu/cpu.cfs_period_us`.
    """
    known = hasattr(os, "sched_getaffinity")  # not on macOS
    allowed = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    quota = _quota(cgroup)
    return max(1, allowed if quota is None else min(allowed, math.ceil(quota)))


def _quota(cgroup: Path) -> float | None:
    words = _words(cgroup / "cpu.max")
    if not words:
        words = _words(cgroup / "cpu/cpu.cfs_quota_us") + _words(cgroup / "cpu/cpu.cfs_period_us")
    try:
        quota, period = (int(word) for word in words)
    except ValueError:  # `max`, or no such file
        return None
    return quota / period if quota > 0 and period > 0 else None


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return []
