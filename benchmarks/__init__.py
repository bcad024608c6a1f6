"""Benchmarks, each beside the plain way to do the same; README.md says which question each one answers."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
"""Where `python -m benchmarks.…` must run."""
RESULTS = Path(__file__).parent / "results"
