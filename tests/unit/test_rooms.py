"""The map in ARCHITECTURE.md and the layers in pyproject.toml show every room and every arrow of the source."""

import re
import tomllib
from collections import Counter
from itertools import pairwise, product
from pathlib import Path

import grimp

PROJECT = Path(__file__).parents[2]
PACKAGE = PROJECT / "src" / "anime_studio"
ARCHITECTURE = (PROJECT / "ARCHITECTURE.md").read_text(encoding="utf-8")
DRAWING = ARCHITECTURE.split("```mermaid\n")[1].split("```")[0]

FOLDERS = [init.parent for init in PACKAGE.rglob("__init__.py") if init.parent != PACKAGE]
MODULES = [module.with_suffix("") for module in PACKAGE.glob("*.py") if module.stem != "__init__"]
ROOMS = {"common"} | {room.relative_to(PACKAGE).as_posix() for room in (*FOLDERS, *MODULES)}
BY_NAME = {room.rpartition("/")[2]: room for room in ROOMS}
Arrow = tuple[str, str]


def arrows() -> set[Arrow]:
    """Return the drawing's arrows."""
    found: set[Arrow] = set()
    for line in DRAWING.splitlines():
        for left, right in pairwise(line.split("-->")):
            found |= set(product(named_in(left), named_in(right)))
    return found


def named_in(text: str) -> list[str]:
    return [BY_NAME[name] for name in re.findall(r"\w+", text) if name in BY_NAME]


def imports() -> set[Arrow]:
    """Return which room imports which: two rooms inside one by themselves, others by the rooms around them."""
    graph = grimp.build_graph("anime_studio", "common")
    pairs = (
        (module, it) for module in graph.modules for it in graph.find_modules_directly_imported_by(module)
    )
    found: set[Arrow] = set()
    for importing, imported in pairs:
        around = zip(rooms_around(importing), rooms_around(imported), strict=False)
        found |= set([arrow for arrow in around if arrow[0] != arrow[1]][:1])
    return found


def rooms_around(module: str) -> list[str]:
    """Return the rooms that *module* lies in, the outermost first."""
    package, *path = module.split(".")
    if package == "common":
        return ["common"]
    return [room for count in (1, 2) if (room := "/".join(path[:count])) in ROOMS]


def reachable(start: str, ways: set[Arrow]) -> set[str]:
    found: set[str] = set()
    while more := {there for here, there in ways if here in {start, *found}} - found:
        found |= more
    return found


def test_every_room_has_its_sentence():
    sentences = re.findall(r"^\| `(?:anime_studio/)?([\w/]+)` \| \S.*\. \|$", ARCHITECTURE, re.MULTILINE)
    assert sorted(sentences) == sorted(ROOMS)


def test_every_room_is_drawn():
    assert set(named_in(DRAWING)) == ROOMS


def test_every_import_follows_the_arrows():
    drawn = arrows()
    assert not {(here, there) for here, there in imports() if there not in reachable(here, drawn)}


def test_every_arrow_is_an_import():
    assert arrows() <= imports()


def test_every_module_is_in_a_layer():
    contracts = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract for contract in contracts if contract["type"] == "layers"]
    named = {name.strip() for layer in layers["layers"] for name in layer.split("|")}
    assert layers["exhaustive"]
    assert named | {"common"} == {room for room in ROOMS if "/" not in room}


def test_every_test_file_has_its_own_name():
    """pytest imports a test file by its name alone: two of one name end the collection of all tests."""
    names = [file.name for file in (PROJECT / "tests").rglob("test_*.py")]
    assert [name for name, count in Counter(names).items() if count > 1] == []
