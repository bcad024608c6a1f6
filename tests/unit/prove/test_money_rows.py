"""Names and units of a price list that nobody has documented, and what a bill may differ by."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from anime_studio.core.errors import UnavailableError
from anime_studio.core.pricing import Machine
from anime_studio.prove.account import BillLine
from anime_studio.prove.memory import Memory, Receipt
from anime_studio.prove.money_rows import bill, per_second, prices
from common.prove import Verdict

L4 = Machine("L4", 2.0, 6.0)
BEGUN = datetime(2026, 11, 27, 20, 15, tzinfo=UTC)
LATER = BEGUN + timedelta(hours=3)
MEMORY = Memory(begun_at=BEGUN, receipts=(Receipt(request_id="r_1", usd=0.1, ended_at=BEGUN),))


class Told:
    """Stands for a Modal account."""

    def __init__(self, rates=None, lines=None):
        self._rates, self._lines = rates, lines

    def rates(self):
        if self._rates is None:
            raise UnavailableError("the prices cannot be read")
        return self._rates

    def bill(self, start, end):
        self.asked = start, end
        if self._lines is None:
            raise UnavailableError("the plan has no report")
        return self._lines


def line(usd, **by_resource):
    return BillLine("anime-studio", usd, by_resource, {"project": "anime-studio"})


@pytest.mark.parametrize(
    ("listed", "name", "ours", "seen"),
    [
        ({"L4": "0.000222", "L40S": "0.000542"}, "L4", 0.000222, 0.000222),
        ({"GPU (L4)": "0.80"}, "L4", 0.000222, 0.8 / 3600),
        ({"a100_80gb": "2.5"}, "A100-80GB", 0.000694, 2.5 / 3600),
        ({"sandbox_cpu": "1", "cpu": "0.0000131"}, "CPU", 0.0000131, 0.0000131),
        ({"Memory (GiB)": "0.00000222"}, "Memory", 0.00000222, 0.00000222),
        ({"L40S": "1.95"}, "L4", 0.000222, None),
    ],
)
def test_a_price_is_found_by_any_spelling_for_a_second_or_an_hour(listed, name, ours, seen):
    now = {key: Decimal(usd) for key, usd in listed.items()}
    assert per_second(now, name, ours) == (None if seen is None else pytest.approx(seen))


def test_prices_that_cannot_be_read_or_recognised_are_not_checked():
    assert prices(Told(), L4).verdict is Verdict.NOT_CHECKED
    found = prices(Told({"speed": Decimal(1)}), L4)
    assert found.verdict is Verdict.NOT_CHECKED
    assert "for L4, CPU, Memory; Modal names speed" in found.detail


@pytest.mark.parametrize(
    ("lines", "now", "verdict", "words"),
    [
        ([], BEGUN, Verdict.NOT_CHECKED, "run this again after 2026-11-27 21:15 UTC"),
        (None, LATER, Verdict.NOT_CHECKED, "the plan has no report"),
        ([], LATER, Verdict.NOT_CHECKED, "no line of this app yet"),
        ([line(0.2, L4=0.15, CPU=0.03, Memory=0.02)], LATER, Verdict.HOLDS, "billed $0.2000"),
        ([line(0.2, L4=0.01, CPU=0.17, Memory=0.02)], LATER, Verdict.FALLS_SHORT, "above the bill for L4"),
        ([line(0.9, L4=0.8, CPU=0.07, Memory=0.03)], LATER, Verdict.FALLS_SHORT, "what nobody counts"),
    ],
)
def test_a_bill_is_compared_by_resource(lines, now, verdict, words):
    account = Told(lines=lines)
    found = bill(account, MEMORY, L4, 0.3, now)
    assert (found.verdict, words in found.detail) == (verdict, True), found.detail


def test_whole_hours_are_asked_for_and_other_apps_left_out():
    other = BillLine("another", 40.0, {"H100": 40.0}, {"project": "another"})
    account = Told(lines=[line(0.2, L4=0.15, CPU=0.03, Memory=0.02), other])
    assert bill(account, MEMORY, L4, 0.3, LATER).verdict is Verdict.HOLDS
    assert account.asked == (BEGUN.replace(minute=0), BEGUN.replace(hour=21, minute=0))
