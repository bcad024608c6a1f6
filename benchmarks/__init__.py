"""Benchmarks, each beside the plain way to do the same; README.md says which question each one answers."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
"""Where `python -m benchmarks.…` must run."""
RESULTS = Path(__file__).parent / "results"


def card_in(result: Mapping[str, Any]) -> str:
    """Return the card of a result's device as file names have it: `h100` of `NVIDIA H100 80GB HBM3`."""
    device: str = result["device"]
    return next(word for word in device.lower().split() if any(map(str.isdigit, word)))


def commit() -> str:
    """Return the commit of the folder that a benchmark runs in."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    except OSError:  # no git here
        return "unknown"
    return head.stdout.strip() or "unknown"
