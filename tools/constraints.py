"""Write constraints.txt: the versions installed here of everything the project needs, bar torch.

torch is left to pip (`TORCH_VERSION`, an extra index), and so is what only torch needs: a CUDA
build brings other packages than a CPU build.

    .venv/bin/python tools/constraints.py > constraints.txt
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires, version

PROJECT, EXTRAS = "anime-studio", ("", "server", "engine", "modal", "dev")
LEFT_TO_PIP = frozenset({"torch", PROJECT})


def closure() -> set[str]:
    """Return the normalised names of all that is needed, directly or not."""
    found: set[str] = set()
    open_ends = [(PROJECT, extra) for extra in EXTRAS]
    seen: set[tuple[str, str]] = set()
    while open_ends:
        name, extra = open_ends.pop()
        if (name, extra) in seen or name == "torch":
            continue
        seen.add((name, extra))
        found.add(name)
        for requirement in _requirements(name):
            needed, _, marker = requirement.partition(";")
            asked = re.search(r"extra == ['\"]([^'\"]+)", marker)
            if (asked[1] if asked else "") != extra:
                continue
            match = re.match(r"\s*([A-Za-z0-9._-]+)\s*(?:\[([^]]*)\])?", needed)
            assert match is not None, requirement
            wanted = {"", *(part.strip() for part in (match[2] or "").split(","))}
            open_ends.extend((_normal(match[1]), each) for each in wanted)
    return found - LEFT_TO_PIP


def _requirements(name: str) -> list[str]:
    try:
        return requires(name) or []
    except PackageNotFoundError:  # behind a marker of another platform
        return []


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    """Print the constraints."""
    print("# Written by tools/constraints.py; `make constraints` does it again.")  # noqa: T201
    for name in sorted(closure()):
        try:
            print(f"{name}=={version(name)}")  # noqa: T201
        except PackageNotFoundError:
            continue


if __name__ == "__main__":
    main()
