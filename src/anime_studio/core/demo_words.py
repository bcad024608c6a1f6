"""The words of the demo's world: what its recipe says about itself, and which words of a prompt mean nothing to it.

The demo checkpoint was trained on captions of a small procedural world (`training/world/wordings.py`). A test holds
the two lists together. A word that is neither of the world nor one that captions are full of ("a", "very", "anime")
changes the clip by chance only, so the person who wrote it is told.
"""

from __future__ import annotations

import re
from typing import Final

from anime_studio.core.prompts import canonical

WORLD: Final = (
    "A toy world: a girl, a boy or a cat; beach, meadow, forest, city, mountain lake or shrine; "
    "day, sunset or night; rain, snow, petals, leaves or fireflies."
)


def _listed(words: str) -> frozenset[str]:
    return frozenset(words.split())


_DRAWN: Final = _listed(
    """
    girl woman schoolgirl lady boy man guy schoolboy cat kitten kitty scenery landscape people nobody humans view
    person character she he
    meadow grassy field green flowers flower rolling hills countryside hill grass grassland
    beach sea seaside sandy shore ocean sand coast waves
    city street downtown buildings tokyo town urban skyline skyscrapers cityscape sidewalk
    forest woods trees
    mountain mountains lake peaks alps mount fuji snowy
    shrine torii gate japanese temple kyoto stone path shinto
    day daylight daytime sunny sky morning noon afternoon sunshine bright sun
    sunset dusk evening golden hour sundown twilight sets
    night stars star moon moonlight midnight starry nighttime dark
    clear weather rain raining rains rainy pouring snow snowing snows snowflakes snowfall winter
    cherry blossom blossoms petal petals sakura spring leaf leaves autumn maple fireflies firefly glowing
    falling drifting floating blowing wind air
    standing stands stand posing looking looks idle waiting walking strolling walk walks wandering
    running dashing sprinting runs run rushing waving waves wave greeting hand
    jumping leaping jumps jump hopping joy
    hair long short bob cut twintails twintail twin tails pigtails ponytail spiky messy flowing eyes
    dress one-piece piece sundress clothes school uniform sailor shirt
    skirt blouse serafuku jacket hoodie coat striped t-shirt sweater
    black white brown blonde blond red pink blue silver gray grey green purple yellow orange golden violet lavender
    chestnut brunette crimson scarlet azure rose emerald amber ginger navy fur
    smiling smile happy happily laughing closed calm serious talking speaking singing face expression
    close close-up closeup portrait full body full-body wide medium upper shot distance
    camera pans pan zooms zoom left right
    """
)
"""What the world holds, and words that its captions use for it."""

_NEUTRAL: Final = _listed(
    """
    a an the her his it this that these those some any my your their our its of in on at by to from with without and or but as
    into onto over under above below behind before front near next beside between among around along across through
    up down out off is are was be being been has have having there here where when while then who which what one two
    1 2d 4k 1990s oc solo viewer
    anime manga animation animated style clip video picture scene shot cel shading hand-drawn drawn drawing line art
    ghibli makoto shinkai studio masterpiece best high quality highest detailed highly beautiful smooth vivid vibrant
    colors colours color colour cinematic clean soft lighting light resolution aesthetic key visual background
    cute very small little tiny big softly gently slowly slow fast quiet lovely peaceful young pretty dreamy magical
    old tall deep empty heavy warm late full-length natural motion still
    please hello make show draw give me us i we you can could would like want see let imagine just really today lol pls
    for during nice good expressive steady consistent frame first last harmonious moving
    no not so too more it's wearing wears wear dressed surrounded taking says saying
    """
)
"""Words that say nothing of their own about a clip of this world: grammar, politeness, quality."""

_WORD: Final = re.compile(r"(?:\b1(?=[a-z]))?(\w+(?:['\u2019-]\w+)*)")
"""A word, its apostrophes and hyphens included; without the 1 of image boards' tags (`1girl`)."""


def unknown_words(prompt: str) -> tuple[list[str], bool]:
    """Return the words of *prompt* that the world does not hold, in its order, and whether it holds any of the others."""
    words = list(
        dict.fromkeys(word.replace("\u2019", "'") for word in _WORD.findall(canonical(prompt).lower()))
    )
    unknown = [word for word in words if not _is_in(word, _DRAWN) and not _is_in(word, _NEUTRAL)]
    return unknown, any(_is_in(word, _DRAWN) for word in words)


def _is_in(word: str, words: frozenset[str]) -> bool:
    bare = word.removesuffix("'s")
    return bare in words or bare.removesuffix("s") in words or all(part in words for part in bare.split("-"))
