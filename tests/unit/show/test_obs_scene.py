"""The scene collection for OBS holds together and points at the overlay."""

import json
import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from anime_studio.settings import Settings
from common.schemas import CHANNEL_PATTERN

SCENES = json.loads((Path(__file__).parents[3] / "examples/obs/anime-studio.json").read_text())


def test_every_scene_exists_and_shows_a_source_that_exists() -> None:
    by_name = {source["name"]: source for source in SCENES["sources"]}
    by_uuid = {source["uuid"]: source for source in SCENES["sources"]}
    assert len(by_uuid) == len(SCENES["sources"])
    assert SCENES["current_scene"] in by_name
    for scene in SCENES["scene_order"]:
        assert by_name[scene["name"]]["id"] == "scene"
        for item in by_name[scene["name"]]["settings"]["items"]:
            assert by_uuid[item["source_uuid"]]["name"] == item["name"]


def test_the_browser_source_opens_the_overlay_where_a_laptop_serves_it() -> None:
    (browser,) = (source for source in SCENES["sources"] if source["id"] == "browser_source")
    url = urlsplit(browser["settings"]["url"])
    defaults = Settings.model_fields
    assert (url.path, url.port) == ("/overlay", defaults["port"].default)
    assert re.match(CHANNEL_PATTERN, parse_qs(url.query)["channel"][0])
    assert browser["settings"]["shutdown"] is False
