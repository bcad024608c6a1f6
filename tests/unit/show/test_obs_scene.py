"""The scene collection for OBS holds together and points at the overlay."""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from anime_studio.settings import Settings
from common.schemas import CHANNEL_PATTERN

FOLDER = Path(__file__).parents[3] / "examples/obs"
CANVASES = {"anime-studio.json": (1920, 1080), "anime-studio-720p.json": (1280, 720)}


def scenes(file: str) -> Any:
    return json.loads((FOLDER / file).read_text())


def test_each_file_fits_the_canvas_that_the_readme_names() -> None:
    readme = (FOLDER / "README.md").read_text()
    for file, (width, height) in CANVASES.items():
        assert f"`{file}`" in readme
        assert f"{width}x{height}" in readme
        items = [item for source in scenes(file)["sources"] for item in source["settings"].get("items", [])]
        assert len(items) == 2
        for item in items:
            assert item["pos"]["x"] + item["bounds"]["x"] <= width
            assert item["pos"]["y"] + item["bounds"]["y"] <= height
    uuids = [source["uuid"] for file in CANVASES for source in scenes(file)["sources"]]
    assert len(set(uuids)) == len(uuids)  # both may be imported into one OBS


@pytest.mark.parametrize("file", CANVASES)
def test_every_scene_exists_and_shows_a_source_that_exists(file: str) -> None:
    collection = scenes(file)
    by_name = {source["name"]: source for source in collection["sources"]}
    by_uuid = {source["uuid"]: source for source in collection["sources"]}
    assert len(by_uuid) == len(collection["sources"])
    assert collection["current_scene"] in by_name
    for scene in collection["scene_order"]:
        assert by_name[scene["name"]]["id"] == "scene"
        for item in by_name[scene["name"]]["settings"]["items"]:
            assert by_uuid[item["source_uuid"]]["name"] == item["name"]


@pytest.mark.parametrize("file", CANVASES)
def test_the_browser_source_opens_the_overlay_where_a_laptop_serves_it(file: str) -> None:
    collection = scenes(file)
    (browser,) = (source for source in collection["sources"] if source["id"] == "browser_source")
    url = urlsplit(browser["settings"]["url"])
    defaults = Settings.model_fields
    assert (url.path, url.port) == ("/overlay", defaults["port"].default)
    assert re.match(CHANNEL_PATTERN, parse_qs(url.query)["channel"][0])
    assert browser["settings"]["shutdown"] is False
