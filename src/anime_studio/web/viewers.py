"""Who has asked for which channel lately, at this process: an overlay polls, so silence means that it is gone."""

from __future__ import annotations

import time
from typing import Any, Final

from common.operator import ChannelView

COUNTED_FOR_S: Final = 30.0
"""A viewer counts as present for so long after its last look; an overlay looks at least every 15 s."""
FORGOTTEN_AFTER_S: Final = 3600.0
MOST_CHANNELS: Final = 200
MOST_VIEWERS: Final = 200


class Viewers:
    """Remembers the last looks at channels, in bounded memory."""

    def __init__(self) -> None:
        self._looks: dict[str, dict[str, float]] = {}

    def note(self, channel: str, viewer: str) -> None:
        """Note that *viewer*, an address and a program, looked at *channel* now."""
        looks = self._looks.pop(channel, {})
        self._looks[channel] = looks  # the newest is the last
        looks.pop(viewer, None)
        looks[viewer] = time.monotonic()
        _bound(looks, MOST_VIEWERS)
        _bound(self._looks, MOST_CHANNELS)

    def channels(self) -> list[ChannelView]:
        """Return the channels of the last hour, the newest look first."""
        now, seen = time.monotonic(), []
        for channel, looks in reversed(self._looks.items()):
            ages = [now - at for at in looks.values()]
            if min(ages) > FORGOTTEN_AFTER_S:
                continue
            viewers = sum(age <= COUNTED_FOR_S for age in ages)
            seen.append(
                ChannelView(
                    channel=channel, viewers=viewers, asked_s=round(min(ages), 1), silent=viewers == 0
                )
            )
        return seen


def _bound(entries: dict[str, Any], most: int) -> None:
    while len(entries) > most:
        del entries[next(iter(entries))]
