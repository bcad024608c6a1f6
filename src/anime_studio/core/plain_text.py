"""Text that crosses a border: from outside to a terminal, or from this machine to callers."""

from __future__ import annotations

import re
from typing import Final

_UNSAFE: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""C0 and C1 controls but tab and line feed (ECMA-48), and those that change the direction (Unicode UAX 9)."""

_PATH: Final = re.compile(
    r"(?<![\w/.:}-])/(?!(?:channels|jobs|outputs|problems|telemetry|v1)/)(?:[\w.@+~-]+/)+(?P<name>[\w.@+~*-]*)"
)
"""An absolute path of a file; not an address, nor a route of ours."""


def visible(text: str, *, lines: bool = True) -> str:
    r"""Return *text* with each control character as an escape such as `\x1b`; without *lines* also tab and line feed."""
    text = _UNSAFE.sub(_escape, text)
    return text if lines else text.replace("\n", "\\n").replace("\t", "\\t")


def without_folders(text: str) -> str:
    """Return *text* with each absolute path of a file cut to its folder and name: where this machine stores is its own."""
    return _PATH.sub(_last_parts, text)


def _last_parts(match: re.Match[str]) -> str:
    *folders, name = match[0].strip("/").split("/")
    return "/".join(("…", *folders[1:][-1:], name))


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()
