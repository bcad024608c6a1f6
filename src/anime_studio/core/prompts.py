"""What a prompt means: its canonical form, and the longer English prompt that few-step students expect.

Chat programs append invisible characters to a repeated line, and one text has several encodings.
`canonical` gives all of them one form. Deterministic and in one place; `compose_prompts` in the settings switches it off.
Few-step students were trained on long, descriptive English prompts only
(TurboDiffusion README, "Prompt"; FastVideo trains on the same kind of captions), and a
chat line is five words. The line comes first and unchanged; then we add what it does not
mention: medium, light and colour, motion, quality. An addition is left out when the line
has a word of its kind, so nothing contradicts the line.
"""

from __future__ import annotations

import html
import re
import unicodedata
from dataclasses import dataclass
from typing import Final

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


_INVISIBLE: Final = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Default_Ignorable_Code_Point (Unicode 16, DerivedCoreProperties.txt)."""

_PICTURE: Final = (
    "[\u00a9\u00ae\u203c\u2049\u2122\u2139\u2190-\u2bff\u3030\u303d\u3297\u3299\U0001f000-\U0001faff]"
    "[\U0001f3fb-\U0001f3ff]?[\ufe0e\ufe0f]?"
)
_EMOJI: Final = (
    rf"[#*0-9]\ufe0f?\u20e3|\U0001f3f4[\U000e0030-\U000e007a]+\U000e007f|{_PICTURE}(?:\u200d{_PICTURE})*"
)
"""Emoji sequences: keycaps, flags with tags, pictures and joined pictures (Unicode TS 51, section 1.4)."""

_JOINING: Final = (
    "[\u0600-\u08ff\u0900-\u0dff\u0f00-\u109f\u1780-\u18af\ua840-\ua8ff\ufb50-\ufdff\ufe70-\ufefc]"
)
_JOINED: Final = rf"(?<={_JOINING})[\u200c\u200d\u180b-\u180d](?={_JOINING})"
"""A joiner between letters of a script that uses them: Arabic, Syriac, Mongolian and the Brahmic scripts (UAX 31)."""

_MEANINGFUL: Final = re.compile(rf"(?P<kept>{_EMOJI}|{_JOINED})|{_INVISIBLE.pattern}")


def canonical(prompt: str) -> str:
    """Return the one form of all prompts that look and mean the same: what is rendered and compared.

    HTML entities are resolved, twice as diffusers' `prompt_clean` does. Invisible characters go, except
    within emoji sequences and as joiners of scripts that use them. The rest is put in NFC (Unicode UAX 15).

    Returns:
        The prompt, trimmed; empty when nothing in it is visible.
    """
    text = html.unescape(html.unescape(prompt))
    visible = _MEANINGFUL.sub(lambda match: match["kept"] or "", text)
    return unicodedata.normalize("NFC", visible).strip()


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
