"""The composer adds what a line does not say, and never changes what it says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anime_studio.core.prompts import LONG_ENOUGH_WORDS, canonical, compose

lines = st.text(min_size=1, max_size=2000).map(str.strip).filter(bool)


@given(lines)
def test_the_line_comes_first_and_whole(line):
    assert compose(line).startswith(" ".join(line.split()))


@given(lines)
def test_the_same_line_composes_the_same_prompt_on_one_line(line):
    assert compose(line) == compose(line)
    assert "\n" not in compose(line)


def test_a_short_line_gains_medium_light_motion_and_quality():
    composed = compose("a girl waving on a beach")

    for added in ("Anime style", "light", "motion", "camera", "quality"):
        assert added in composed


@pytest.mark.parametrize(
    ("line", "unsaid"),
    [
        ("a manga hero", "Anime style"),
        ("a cat at night", "cinematic light"),
        ("a cat, still", "natural motion"),
        ("empty landscape", "expressive face"),
        ("slow zoom on a cat", "steady camera"),
        ("masterpiece, a cat", "high quality"),
    ],
)
def test_nothing_is_added_that_the_line_speaks_of(line, unsaid):
    assert unsaid not in compose(line)


def test_a_long_prompt_is_left_alone():
    long = " ".join(["word"] * LONG_ENOUGH_WORDS)
    assert compose(long) == long


def test_a_line_that_says_it_all_is_left_alone():
    line = "anime, night, smooth, close-up, static shot, masterpiece"
    assert compose(line) == line


@pytest.mark.parametrize(
    ("line", "joint"), [("a cat", "a cat. A"), ("a cat!", "a cat! A"), ("a cat.", "a cat. A")]
)
def test_sentences_are_joined_once(line, joint):
    assert compose(line).startswith(joint)


@pytest.mark.parametrize(
    "prompt",
    [
        "\u200b",
        "\U000e0000",
        "\u3164 \ufe0f",
        "\u00ad\u2060\ufeff",
        "\u200d",
        "&#8203;",
        "&amp;zwj;",
        "\u202e\u2069",
    ],
)
def test_a_prompt_without_a_visible_character_is_empty(prompt):
    assert canonical(prompt) == ""


@pytest.mark.parametrize(
    "variant",
    [
        "a café cat \U000e0000",
        "a cafe\u0301 cat",
        "\ufeffa ca\u00adf\u00e9 c\u200bat\u200d",
        "a caf&eacute; cat",
        "a cafe\u034f\u0301 cat",
        "\u202aa café cat\u202c",
    ],
)
def test_prompts_that_look_and_mean_the_same_have_one_form(variant):
    assert canonical(variant) == "a café cat"


@pytest.mark.parametrize(
    "prompt",
    [
        "👩\u200d🚀 lands",
        "🧑🏽\u200d🤝\u200d🧑🏻",
        "a ❤\ufe0f and a ✈\ufe0e",
        "👩\u200d❤\ufe0f\u200d👨",
        "1\ufe0f\u20e3",
        "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian "I want", with its usual non-joiner
        "क्\u200dष",
        "ක්\u200dර",
    ],
)
def test_invisible_characters_that_carry_meaning_stay(prompt):
    assert canonical(prompt) == prompt


@pytest.mark.parametrize(
    ("prompt", "form"),
    [
        ("🐱\u200d", "🐱"),
        ("5\ufe0f cats", "5 cats"),
        ("a\u200db", "ab"),
        ("\u0645\u06cc\u200c", "\u0645\u06cc"),
        ("x\U000e0067", "x"),
    ],
)
def test_outside_such_a_place_they_go(prompt, form):
    assert canonical(prompt) == form


@given(lines.filter(lambda line: "&" not in line))
def test_the_canonical_form_of_a_canonical_form_is_itself(line):
    assert canonical(canonical(line)) == canonical(line)
