"""The example bot's blocklist: what a reader would see is refused, however it is typed; false friends are not."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))

from moderation import SHIPPED, Blocklist, is_foreign

RULES = Blocklist.read(SHIPPED)


@pytest.mark.parametrize(
    "text",
    [
        "a nude bloody corpse with a swastika", "NUDE", "nuuuude", "nud3", "s3x", "5ex", "$wastika", "sw@stika", "swast1ka",
        "h3ntai", "big b00bs", "porno", "NSFW!!", "(nude)", "lOlI",
        "n.u.d.e", "n_u_d_e", "n*u*d*e", "n u d e", "nu de", "n u de", "a s w a s t i k a", "draw me a n u d e please",
        "self-harm", "self harm", "a selfharm scene", "nu\u200bde", "n\u00adude",
        "пudе", "ѕwаѕtіkа", "νυde", "ｎｕｄｅ", "𝓃𝓊𝒹𝑒", "ɴᴜᴅᴇ", "nu\u0301de", "pór̃n", "卐",
    ],
)  # fmt: skip
def test_a_listed_word_is_found_however_it_is_typed(text):
    assert RULES.refuses(text)


@pytest.mark.parametrize(
    "text",
    [
        "a cat on a roof", "Scunthorpe", "a cockatiel on a perch", "the assassin's classical glasses", "bob's burgers",
        "a peacock", "Essex county", "dickens reading", "Middlesex", "analysis of a title", "a cocktail", "a 5 x 5 grid",
        "gorgeous sunset", "corporal", "an organism", "cumulus clouds", "a spice market", "raccoon", "hanging gardens",
        "bloodhound", "grape juice", "therapist", "flag of spain", "swordsman", "sextant", "he is so cute", "lollipop",
        "it is up to us to go on", "1 2 3 4", "455", "a shitake",
    ],
)  # fmt: skip
def test_a_false_friend_is_no_match(text):
    assert not RULES.refuses(text)


def test_a_word_of_ones_own_is_refused_from_then_on(tmp_path):
    own = tmp_path / "own.txt"
    own.write_text("# ours\nspoiler*\n[rot13]\nfrperg cybg\n")
    rules = Blocklist.read(own)
    assert (
        rules.refuses("big SPOILERS") and rules.refuses("the secret plot") and not rules.refuses("a secret")
    )
    rules.add("giraffe")
    assert rules.refuses("a g1raffe")


@pytest.mark.parametrize(
    ("text", "foreign"),
    [
        ("a cat", False),
        ("屋根の上の猫", True),
        ("cat 猫", False),
        ("кот на крыше", True),
        ("123", False),
        ("😀", False),
        ("ｃａｔ", False),
    ],
)
def test_another_script_is_told_apart(text, foreign):
    assert is_foreign(text) == foreign
