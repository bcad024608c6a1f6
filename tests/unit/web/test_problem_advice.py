"""The pages say for each error what to do next, and name what is on the page."""

import re
from pathlib import Path

import anime_studio
from anime_studio.core import errors

STATIC = Path(anime_studio.__file__).parent / "web" / "static"
PAGES_OWN = {"offline", "clip_unplayable"}
NOT_ON_A_PAGE = {
    *("hub_unreachable", "hub_rate_limited", "hub_denied", "hub_not_found", "configuration_invalid"),
    *("url_malformed", "url_invalid", "clip_hidden"),  # of a link's own page
    "job_cancelled",  # shown as a state
    "internal_error",  # nobody knows what to do: the fallback says whom to tell
}


def advice() -> dict[str, str]:
    table = (
        (STATIC / "problems.js").read_text(encoding="utf-8").partition("ADVICE = {")[2].partition("\n};")[0]
    )
    return dict(re.findall(r'^  (\w+): "(.+)",$', table, re.MULTILINE))


def test_each_error_that_a_page_can_show_has_advice() -> None:
    codes = {
        own["code"]
        for error in vars(errors).values()
        if isinstance(error, type) and "code" in (own := vars(error))
    }
    assert set(advice()) == codes - NOT_ON_A_PAGE | PAGES_OWN


def test_a_part_of_the_form_that_advice_names_is_there() -> None:
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    named = {name for words in advice().values() for name in re.findall(r" under ([A-Z]\w+)", words)}
    assert named == set(re.findall(r"<summary>(\w+)</summary>", page))
