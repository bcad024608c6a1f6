"""Benchmarks, each beside the plain way to do the same; README.md says which question each one answers."""

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
