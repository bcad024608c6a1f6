"""Text that crosses a border: from outside to a terminal or a title, or from this machine to callers."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

_UNSAFE: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""C0 and C1 controls but tab and line feed (ECMA-48), and those that change the direction (Unicode UAX 9)."""

_PATH: Final = re.compile(
    r"(?<![\w/.:}…-])/(?!(?:channels|jobs|outputs|problems|telemetry|v1|watch)/)(?:[\w.@+~-]+/)+(?P<name>[\w.@+~*-]*)"
)
"""An absolute path of a file; not an address, nor a route of ours, nor what is left of a path that was cut before."""

_JOINER: Final = "\u200d"
_SKIN_TONES: Final = frozenset(map(chr, range(0x1F3FB, 0x1F400)))
_FLAG_LETTERS: Final = frozenset(map(chr, range(0x1F1E6, 0x1F200)))
"""The common part of Unicode's grapheme clusters (UAX 29)."""


def visible(text: str, *, lines: bool = True) -> str:
    r"""Return *text* with each control character as an escape such as `\x1b`; without *lines* also tab and line feed."""
    text = _UNSAFE.sub(_escape, text)
    return text if lines else text.replace("\n", "\\n").replace("\t", "\\t")


def title_of(text: str, max_chars: int) -> str:
    """Return *text* on one line that keeps its direction, at most *max_chars* long, cut between characters as people see them."""
    line = " ".join(_UNSAFE.sub(" ", text).split())
    if len(line) <= max_chars:
        return line
    end = max_chars - 1
    while end and _continues(line[end - 1], line[end]):
        end -= 1
    return line[: end or max_chars - 1].rstrip() + "…"


def without_folders(text: str) -> str:
    """Return *text* with each absolute path of a file cut to its folder and name: where this machine stores is its own."""
    return _PATH.sub(_last_parts, text)


def _continues(before: str, character: str) -> bool:
    """Return whether *character* is a part of the one before it: an accent, an emoji's colour, joined emoji, a flag."""
    return (
        unicodedata.category(character).startswith("M")
        or _JOINER in (before, character)
        or character in _SKIN_TONES
        or (before in _FLAG_LETTERS and character in _FLAG_LETTERS)
    )


def _last_parts(match: re.Match[str]) -> str:
    *folders, name = match[0].strip("/").split("/")
    return "/".join(("…", *folders[1:][-1:], name))


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()
