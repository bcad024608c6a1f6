"""Installed packages against the pinned list, `constraints.txt`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Final

from anime_studio.prove.rows import Found
from common.prove import Verdict

CONSTRAINTS: Final = Path(__file__).parents[3] / "constraints.txt"


def installed_packages() -> dict[str, str]:
    """Return every installed distribution and its version, without a build's suffix such as `+cu130`."""
    return {_plain(each.name): each.version.partition("+")[0] for each in distributions() if each.name}


def compare(installed: Mapping[str, str], constraints: Path = CONSTRAINTS) -> Found:
    """Compare *installed*, as `installed_packages` returns it, with the pinned list."""
    if not constraints.exists():
        return Found(
            Verdict.NOT_CHECKED, f"the pinned list, {constraints.name}, is in a clone of the project only"
        )
    lines = constraints.read_text(encoding="utf-8").splitlines()
    matches = (re.match(r"([\w.-]+)==([^\s;]+)", line) for line in lines)
    pinned = {_plain(match[1]): match[2] for match in matches if match}
    both = sorted(pinned.keys() & installed.keys())
    other = [
        f"{name} {installed[name]} (pinned {pinned[name]})"
        for name in both
        if installed[name] != pinned[name]
    ]
    torch = f"torch {installed.get('torch', 'is absent')}"
    if other:
        return Found(Verdict.FALLS_SHORT, f"other versions than pinned: {', '.join(other)}; {torch}")
    return Found(Verdict.HOLDS, f"{len(both)} installed packages have the pinned versions; {torch}")


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
