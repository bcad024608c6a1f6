"""The composer adds what a line does not say, and never changes what it says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anime_studio.core.prompts import LONG_ENOUGH_WORDS, compose

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
