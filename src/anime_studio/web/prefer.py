"""The `Prefer` header. Source: RFC 7240, sections 2, 3, 4.1 (respond-async) and 4.3 (wait)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_WAIT_S = re.compile(r'"?([0-9]{1,9})"?', re.ASCII)


@dataclass(frozen=True, slots=True)
class Preference:
    """What a caller prefers; `wait_s` in whole seconds."""

    respond_async: bool = False
    wait_s: int | None = None

    def bounded_wait_s(self, longest_s: float) -> float:
        """Return how long to wait: as preferred, never above *longest_s*."""
        if self.wait_s is not None:
            return min(float(self.wait_s), longest_s)
        return 0.0 if self.respond_async else longest_s

    def applied(self, wait_s: float) -> str | None:
        """Return the value of `Preference-Applied`, with the bounded wait."""
        applied = ["respond-async"] if self.respond_async else []
        if self.wait_s is not None:
            applied.append(f"wait={wait_s:g}")
        return ", ".join(applied) or None


def read_preference(values: Sequence[str]) -> Preference:
    """Read all `Prefer` headers; the first of each name counts, an unknown one is ignored."""
    first: dict[str, str] = {}
    for token in ",".join(values).split(","):
        name, _, value = token.partition(";")[0].partition("=")
        first.setdefault(name.strip().lower(), value.strip())
    wait = _WAIT_S.fullmatch(first.get("wait", ""))
    return Preference("respond-async" in first, None if wait is None else int(wait[1]))
