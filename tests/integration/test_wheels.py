"""What a stranger installs: the wheels' contents and sizes, and the client beside a bot's own `common` folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import anime_studio.client
from common import schemas, show

PROJECT = Path(__file__).parents[2]
DEMO = "anime_studio/checkpoints/demo/"
MOST_BYTES = 15 * 10**6


def build(folder: Path, out: Path) -> zipfile.ZipFile:
    wheel = pytest.importorskip("hatchling.builders.wheel", reason="pip install -e '.[dev]' brings hatchling")
    (path,) = wheel.WheelBuilder(str(folder)).build(directory=str(out), versions=["standard"])
    return zipfile.ZipFile(path)


def test_the_package_is_small_and_the_demo_comes_apart(tmp_path: Path) -> None:
    with build(PROJECT, tmp_path) as base, build(PROJECT / "demo", tmp_path) as demo:
        assert sum(file.file_size for file in base.infolist()) < MOST_BYTES
        assert {"common/schemas.py", "anime_studio/web/static/sample.mp4"} <= set(base.namelist())
        weights = [name for name in demo.namelist() if ".dist-info/" not in name]
        assert not set(weights) & set(base.namelist())
        assert not [name for name in base.namelist() if name.startswith(DEMO)]
        source = PROJECT / "src"
        shipped = {
            str(path.relative_to(source))
            for path in (source / DEMO).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert set(weights) == shipped
        assert all(demo.read(name) == (source / name).read_bytes() for name in weights)


def test_no_message_names_a_package_of_a_public_index() -> None:
    places = [*(PROJECT / "src").rglob("*.py"), *PROJECT.glob("*.md"), *(PROJECT / "docs").rglob("*.md")]
    assert not [path for path in places if "'anime-studio[" in path.read_text(encoding="utf-8")]


def python(code: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"PYTHONPATH": str(PROJECT / "src")}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_a_bots_own_common_folder_is_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "__init__.py").write_text("")
    failed = python("import anime_studio.client", tmp_path)
    last = failed.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: another module named `common` hides the contract")
    assert str(tmp_path) in last


def test_the_client_has_the_types_of_the_contract() -> None:
    for module in (schemas, show):
        for name, value in vars(module).items():
            if (
                getattr(value, "__module__", "") == module.__name__
                and isinstance(value, type)
                and name[0] != "_"
            ):
                assert getattr(anime_studio.client, name) is value
                assert name in anime_studio.client.__all__
