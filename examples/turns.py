"""Who may order, and whose turn is next: cooldown and bounds for each viewer, and fair turns between them."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Limits:
    """How much chat may ask for.

    Attributes:
        cooldown_s: Between two orders of one viewer.
        per_viewer: Orders of one viewer without an answer yet.
        open_orders: Orders of all viewers without an answer yet.
        at_studio: Orders that wait at the studio; the others wait here, where their turn can still change.
    """

    cooldown_s: float = 20.0
    per_viewer: int = 2
    open_orders: int = 30
    at_studio: int = 3


@dataclass
class Turns:
    """The orders that wait here, by viewer. The viewer who was served longest ago goes first, then the older order."""

    limits: Limits
    clock: Callable[[], float] = time.monotonic
    waiting: dict[str, str] = field(default_factory=dict)
    """Key of the order -> its viewer, in the order in which they were said."""
    at_studio: dict[str, str] = field(default_factory=dict)
    _asked_at: dict[str, float] = field(default_factory=dict)
    _served: dict[str, int] = field(default_factory=dict)
    _count: int = 0

    def refusal(self, viewer: str) -> str | None:
        """Return in words why *viewer* may not order now, or None."""
        open_orders = [*self.waiting.values(), *self.at_studio.values()]
        own = sum(name == viewer for name in open_orders)
        left_s = self._asked_at.get(viewer, -math.inf) + self.limits.cooldown_s - self.clock()
        if own >= self.limits.per_viewer:
            return f"you have {own} {'order' if own == 1 else 'orders'} open: ask again when one is done"
        if len(open_orders) >= self.limits.open_orders:
            return "too many orders are open: ask again in a minute"
        if left_s > 0:
            return f"ask again in {math.ceil(left_s)} s"
        return None

    def add(self, key: str, viewer: str) -> None:
        """Let an order wait for its turn."""
        self.waiting[key] = viewer
        self._asked_at[viewer] = self.clock()

    def next(self) -> str | None:
        """Return the order whose turn it is, which goes to the studio; None if none waits or the studio has enough."""
        if not self.waiting or len(self.at_studio) >= self.limits.at_studio:
            return None
        key = self._in_turn()[0]
        self.at_studio[key] = viewer = self.waiting.pop(key)
        self._count += 1
        self._served[viewer] = self._count
        return key

    def ahead_of(self, key: str) -> int:
        """Return how many orders come before this one."""
        if key in self.waiting:
            return len(self.at_studio) + self._in_turn().index(key)
        return list(self.at_studio).index(key)

    def remove(self, key: str) -> None:
        """Forget an order that has its answer."""
        self.waiting.pop(key, None)
        self.at_studio.pop(key, None)

    def _in_turn(self) -> list[str]:
        served, left, turns = dict(self._served), dict(self.waiting), []
        for count in range(self._count + 1, self._count + 1 + len(left)):
            key = min(
                left, key=lambda key: served.get(left[key], 0)
            )  # of equals the first, which was said first
            served[left.pop(key)] = count
            turns.append(key)
        return turns
