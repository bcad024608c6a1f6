"""A short chat line becomes the longer English prompt that few-step students expect.

Deterministic and in one place; `compose_prompts` in the settings switches it off.
Few-step students were trained on long, descriptive English prompts only
(TurboDiffusion README, "Prompt"; FastVideo trains on the same kind of captions), and a
chat line is five words. We keep the line first and unchanged, then add what it does
not already say: medium, light and colour, motion, quality. Nothing is added that would
contradict it: each addition stands aside when the line has a word of its kind.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

LONG_ENOUGH_WORDS = 60
"""A prompt of this length already reads like a training caption and is left alone."""


@dataclass(frozen=True, slots=True)
class _Addition:
    text: str
    unless: re.Pattern[str]


def _any_of(*words: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(words)})\b", re.IGNORECASE)


_ADDITIONS = (
    _Addition(
        "Anime style, 2D hand-drawn animation with clean line art and cel shading",
        _any_of("anime", "cel[ -]shad\\w*", "manga", "2d", "ghibli", "cartoon", "photo\\w*", "realistic", "3d"),
    ),
    _Addition(
        "soft cinematic light and vivid, harmonious colours",
        _any_of(
            "night", "dark", "monochrome", "black and white", "noir", "neon", "light\\w*", "sun\\w*", "moon\\w*",
            "colou?rs?", "colou?rful",
        ),
    ),
    _Addition(
        "smooth natural motion, hair and clothes moving gently",
        _any_of("still", "motionless", "frozen", "slow motion", "smooth\\w*", "landscape", "scenery", "no people"),
    ),
    _Addition("detailed background, expressive face", _any_of("no people", "nobody", "scenery", "landscape", "close-?up")),
    _Addition("steady camera", _any_of("camera", "pan\\w*", "zoom\\w*", "tracking", "dolly", "handheld", "shot")),
    _Addition("high quality, consistent from the first frame to the last", _any_of("masterpiece", "quality")),
)  # fmt: skip


def compose(prompt: str) -> str:
    """Return *prompt* followed by the anime styling it does not mention.

    Args:
        prompt: The chat line, trimmed, 1–2,000 characters.

    Returns:
        One line of English; *prompt* itself when it is already long.
    """
    line = " ".join(prompt.split())
    if len(line.split()) >= LONG_ENOUGH_WORDS:
        return line
    additions = [addition.text for addition in _ADDITIONS if not addition.unless.search(line)]
    if not additions:
        return line
    tail = ", ".join(additions)
    separator = " " if line[-1] in ".!?…" else ". "
    return f"{line}{separator}{tail[0].upper()}{tail[1:]}."
