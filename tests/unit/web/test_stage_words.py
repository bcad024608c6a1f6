"""The pages and the command line have one vocabulary of stages."""

import re
from pathlib import Path

import anime_studio
from anime_studio.core.show import STAGES
from anime_studio.core.stage_words import STAGE_WORDS

STATIC = Path(anime_studio.__file__).parent / "web" / "static"


def test_the_pages_and_the_command_line_have_the_same_words() -> None:
    script = (STATIC / "stages.js").read_text(encoding="utf-8")
    table = script.partition("STAGE_WORDS = {")[2].partition("}")[0]
    assert dict(re.findall(r'(\w+): "([^"]+)"', table)) == dict(STAGE_WORDS)
    assert set(STAGE_WORDS) == set(STAGES)


def test_no_other_page_has_words_of_its_own() -> None:
    words = set(STAGE_WORDS.values()) - {"In all"}
    for path in STATIC.glob("*.js"):
        if path.name != "stages.js":
            quoted = set(re.findall(r'"(\w+)', path.read_text(encoding="utf-8")))
            assert not quoted & (words - {"Waiting"}), path.name
