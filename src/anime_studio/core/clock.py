"""The machine's clock."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from anime_studio.core.ports import Clock

CONFIRMED_AFTER_S: Final = 600.0


class SystemClock:
    """A `core.ports.Clock` over the machine's clock."""

    def now(self) -> datetime:
        """Aware UTC time."""
        return datetime.now(UTC)


class CautiousClock:
    """The time for deletions: never ahead of what the clock has shown, without a break, for ten minutes.

    It is the monotonic clock plus the least difference to the real one in that time. So a clock that is a day
    ahead for a minute makes nothing old, and one that is set ahead for good counts after ten minutes.
    """

    def __init__(self, clock: Clock, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._began_s = monotonic()
        self._seen: deque[tuple[float, datetime]] = deque()
        """When the real clock was looked at, and what it would have shown at second 0 of the monotonic one."""

    def now(self) -> datetime:
        """Aware UTC time; look at least once in `CONFIRMED_AFTER_S`."""
        now_s = self._monotonic()
        self._seen.append((now_s, self._clock.now() - timedelta(seconds=now_s)))
        while self._seen[0][0] < now_s - CONFIRMED_AFTER_S:
            self._seen.popleft()
        return min(zero for _, zero in self._seen) + timedelta(seconds=now_s)

    @property
    def confirmed(self) -> bool:
        """Whether the clock was watched for long enough: before that, it may be ahead since the start."""
        return self._monotonic() - self._began_s >= CONFIRMED_AFTER_S
