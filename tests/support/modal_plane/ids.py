"""Object ids with Modal's prefixes (`ap-`, `fu-`, `im-` …), numbered in order of creation."""

from collections import Counter


class Ids:
    """Hands out `prefix-<22 characters>`, the length that the client checks for app ids."""

    def __init__(self) -> None:
        self._last: Counter[str] = Counter()

    def new(self, prefix: str) -> str:
        """Return the next id with this prefix."""
        self._last[prefix] += 1
        return f"{prefix}-{self._last[prefix]:022d}"
