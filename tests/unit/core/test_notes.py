"""What a job's notes say: words that a small world does not hold, and a length that is not the one asked for."""

import pytest

from anime_studio.core.clip import plan
from anime_studio.core.notes import notes_on
from anime_studio.core.recipes import DEMO, WAN_50STEP, Recipe
from anime_studio.core.show import recipe_card
from common.schemas import GenerateRequest


def notes(prompt: str, recipe: Recipe = DEMO, **fields: object) -> dict[str, str]:
    request = GenerateRequest.model_validate({"prompt": prompt} | fields)
    spec = plan(request, recipe, model_revision="r", seed=1)
    return {note.code: note.detail for note in notes_on(spec, recipe)}


@pytest.mark.parametrize("prompt", recipe_card(DEMO).examples)
def test_the_pages_own_examples_hold_no_unknown_word(prompt: str) -> None:
    assert notes(prompt) == {}


def test_words_outside_the_world_are_named_in_order_and_the_rest_is_made() -> None:
    detail = notes("A cat on a ROOF, at night, beside a robot and a roof")["unknown_words"]
    assert detail == "demo does not know: roof, robot. It makes the rest of the prompt"


@pytest.mark.parametrize("prompt", ["spaceship", "猫が屋根の上", "🐉", "!!!", "very cute please"])
def test_a_prompt_of_nothing_known_says_that_the_scene_is_its_own(prompt: str) -> None:
    assert "some scene of its own" in notes(prompt)["unknown_words"]


def test_the_note_is_short_whatever_the_prompt() -> None:
    detail = notes("cat " + " ".join(f"w{number}" + "o" * 300 for number in range(6)))["unknown_words"]
    assert len(detail) < 300
    many = notes("cat " + " ".join(f"zz{number}" for number in range(100)))["unknown_words"]
    assert "and 94 more" in many


def test_spelling_variants_of_known_words_are_known() -> None:
    assert notes("Girls\u2019 pink twin-tails; a girl's dress, T-shirts & cats in KYOTO\u200b") == {}


def test_a_recipe_of_any_words_says_nothing_of_them() -> None:
    assert notes("a dragon on a roof", WAN_50STEP) == {}


def test_a_length_that_is_noticeably_longer_is_said() -> None:
    assert (
        "asked for 3.1 s; the clip has 3.3125 s" in notes("a cat", WAN_50STEP, duration=3.1)["length_changed"]
    )
    assert notes("a cat", WAN_50STEP, duration=5) == {}
