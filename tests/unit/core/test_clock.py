"""The time for deletions follows the clock, but not its jumps ahead."""

from datetime import timedelta

from anime_studio.core.clock import CONFIRMED_AFTER_S, CautiousClock
from support.jobs import NOON, HandClock

HOUR_S = 3600.0


class Rig:
    def __init__(self) -> None:
        self.real, self.elapsed_s = HandClock(), 0.0
        self.cautious = CautiousClock(self.real, lambda: self.elapsed_s)

    def pass_by(self, seconds: float, every_s: float = 60.0) -> None:
        """Let time pass, with a look at the clock every minute."""
        for _ in range(round(seconds / every_s)):
            self.elapsed_s += every_s
            self.real.advance(every_s)
            self.cautious.now()


def test_it_is_the_clock_as_long_as_that_does_not_jump() -> None:
    rig = Rig()
    rig.pass_by(HOUR_S)
    assert rig.cautious.now() == rig.real.now() == NOON + timedelta(hours=1)
    assert rig.cautious.confirmed


def test_a_day_ahead_for_some_minutes_makes_nothing_older() -> None:
    rig = Rig()
    rig.pass_by(HOUR_S)
    rig.real.advance(24 * HOUR_S)
    rig.pass_by(CONFIRMED_AFTER_S - 60)
    assert rig.cautious.now() == rig.real.now() - timedelta(days=1)
    rig.real.advance(-24 * HOUR_S)
    rig.pass_by(HOUR_S)
    assert rig.cautious.now() == rig.real.now()


def test_a_clock_that_is_set_ahead_for_good_counts_after_a_while() -> None:
    rig = Rig()
    rig.pass_by(HOUR_S)
    rig.real.advance(24 * HOUR_S)
    rig.pass_by(CONFIRMED_AFTER_S + 60)
    assert rig.cautious.now() == rig.real.now()


def test_a_clock_set_back_counts_at_once() -> None:
    rig = Rig()
    rig.pass_by(HOUR_S)
    rig.real.advance(-HOUR_S)
    assert rig.cautious.now() == rig.real.now()


def test_at_the_start_it_is_not_confirmed() -> None:
    rig = Rig()
    assert not rig.cautious.confirmed
    rig.pass_by(CONFIRMED_AFTER_S)
    assert rig.cautious.confirmed
