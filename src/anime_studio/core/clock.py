"""The machine's clock."""

from __future__ import annotations

from datetime import UTC, datetime


class SystemClock:
    """A `core.jobs.Clock` that tells the real time."""

    def now(self) -> datetime:
        """Aware UTC time."""
        return datetime.now(UTC)
