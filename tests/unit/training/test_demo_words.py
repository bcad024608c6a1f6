"""The words that the service calls known are those that the checkpoint was trained on, and no others of its captions."""

import random

import pytest

from anime_studio.core.demo_words import unknown_words
from training.world import wordings as w
from training.world.captions import write_caption
from training.world.palette import CLOTHES, EYES, FUR, HAIR
from training.world.scene import sample_scene

TABLES = (
    w.SCENE, w.TIME_OF_DAY, w.WEATHER, w.ACTION, w.HAIR_STYLE, w.CLOTHES, w.NOUN, w.EXPRESSION, w.SHOT, w.CAMERA,
    w.SYNONYMS,
)  # fmt: skip


def test_every_wording_of_the_world_is_known() -> None:
    wordings = {
        text.format(c="red", their="her") for table in TABLES for texts in table.values() for text in texts
    }
    assert {text: unknown for text in wordings if (unknown := unknown_words(text)[0])} == {}


def test_colours_fillers_and_quality_words_are_known() -> None:
    for words in (HAIR, CLOTHES, EYES, FUR, w.FILLERS, w.QUALITY, w.BOY_HAIR):
        assert unknown_words(" ".join(words).format(c="red"))[0] == []


def test_what_the_captions_hold_as_unknown_gets_a_note() -> None:
    for text in w.NOTHING_KNOWN:
        unknown, knows_others = unknown_words(text)
        assert unknown or not knows_others, text


def test_training_captions_without_noise_words_hold_nothing_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.world.captions.unknown_word", lambda _: "cute")
    rng = random.Random(4)
    for _ in range(300):
        caption = write_caption(sample_scene(rng), rng)
        if caption.named:
            assert unknown_words(caption.text)[0] == [], caption.text
