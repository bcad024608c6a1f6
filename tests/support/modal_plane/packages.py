"""Which installed distributions an image would contain: its requirements and what they require in turn.

A container then sees only those, so a module that the image does not install cannot be imported there.
The files come from this interpreter's own environment: versions are the local ones, and a requirement that is not
installed locally is reported in `missing`, not downloaded.
"""

import importlib.metadata as metadata
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from packaging.requirements import Requirement

# modal/builder/2026.10.txt: mounted into every container behind the image's own packages, plus synchronicity.
CLIENT_DISTRIBUTIONS = [
    "aiohappyeyeballs",
    "aiohttp",
    "aiosignal",
    "attrs",
    "cbor2",
    "certifi",
    "frozenlist",
    "grpclib",
    "h2",
    "hpack",
    "hyperframe",
    "idna",
    "multidict",
    "propcache",
    "protobuf",
    "typing_extensions",
    "yarl",
]


@dataclass
class Closure:
    """Distributions by canonical name, and the requirements that are not installed here."""

    distributions: dict[str, metadata.Distribution] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def canonical(name: str) -> str:
    """PEP 503 name."""
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def _installed() -> dict[str, metadata.Distribution]:
    return {canonical(d.metadata["Name"]): d for d in metadata.distributions()}


def closure(requirements: Iterable[str]) -> Closure:
    """Follow requirements, extras and environment markers through the installed metadata."""
    found, seen = Closure(), set[tuple[str, ...]]()
    wanted = [Requirement(text) for text in requirements]
    queue = [r for r in wanted if r.marker is None or r.marker.evaluate()]
    while queue:
        requirement = queue.pop()
        name = canonical(requirement.name)
        if (name, *sorted(requirement.extras)) in seen:
            continue
        seen.add((name, *sorted(requirement.extras)))
        distribution = _installed().get(name)
        if distribution is None:
            found.missing.append(requirement.name)
            continue
        found.distributions[name] = distribution
        for text in distribution.requires or []:
            needed = Requirement(text)
            contexts = [{"extra": extra} for extra in ("", *requirement.extras)]
            if needed.marker is None or any(needed.marker.evaluate(c) for c in contexts):
                queue.append(needed)
    return found


@cache
def top_level_entries(distribution: metadata.Distribution) -> frozenset[str]:
    """Names directly under site-packages that belong to a distribution; a shared namespace folder counts whole."""
    names = {Path(str(f)).parts[0] for f in distribution.files or []}
    return frozenset(n for n in names if n not in ("..", "__pycache__") and not n.endswith(".pth"))


def link_site_packages(target: Path, distributions: Iterable[metadata.Distribution], seen_as: Path) -> None:
    """Fill `target` with links to the distributions' entries; `seen_as` is site-packages inside the container."""
    target.mkdir(parents=True, exist_ok=True)
    for distribution in distributions:
        for name in top_level_entries(distribution):
            link = target / name
            if not link.is_symlink():
                link.symlink_to(seen_as / name)
