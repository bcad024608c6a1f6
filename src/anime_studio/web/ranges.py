"""The `Range` and `If-None-Match` headers as RFC 9110 defines them (sections 14.2, 14.1.1, 13.1.2).

Starlette 1.10 answers 400 where the RFC ignores the header (an unknown unit, a last byte before
the first) and 416 when one of several ranges lies past the end. So `Range` is rewritten before
`FileResponse` sees it, to a form that Starlette and the RFC read in the same way.
"""

from __future__ import annotations

import re
from typing import Final

MOST_RANGES: Final = 100
"""A request for more gets the whole file, as in Starlette since 0.49: many small ranges cost more than they save."""

_UNIT: Final = re.compile(r"bytes\s*=\s*(.*)", re.ASCII | re.IGNORECASE)
_RANGE: Final = re.compile(r"([0-9]{0,18})\s*-\s*([0-9]{0,18})", re.ASCII)


class RangeNotSatisfiableError(Exception):
    """Every range lies past the end of the file."""


def satisfiable(value: str, size_bytes: int) -> str | None:
    """Return *value* with the ranges that lie within the file, or None if the header is to be ignored.

    Args:
        value: The `Range` header.
        size_bytes: Size of the file.

    Raises:
        RangeNotSatisfiableError: No range is left.
    """
    match = _UNIT.fullmatch(value.strip())
    if match is None:
        return None
    ranges = [part.strip() for part in match[1].split(",") if part.strip()]
    if not 1 <= len(ranges) <= MOST_RANGES:
        return None
    within = []
    for text in ranges:
        bounds = _RANGE.fullmatch(text)
        if bounds is None or not (bounds[1] or bounds[2]):
            return None
        first, last = bounds.groups()
        if first and last and int(last) < int(first):
            return None
        if int(first) < size_bytes if first else int(last) > 0:
            within.append(f"{first}-{last}")
    if not within:
        raise RangeNotSatisfiableError
    return f"bytes={','.join(within)}"


def matches_etag(if_none_match: str, etag: str) -> bool:
    """Whether `If-None-Match` holds *etag*; the comparison is weak."""
    known = (candidate.strip().removeprefix("W/") for candidate in if_none_match.split(","))
    return any(candidate in ("*", etag) for candidate in known)
