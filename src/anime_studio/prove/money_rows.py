"""The rows about money: today's prices against our table, and an hour's bill against receipts."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

from anime_studio.core.errors import UnavailableError
from anime_studio.core.pricing import MODAL_RATES, Machine, RateTable
from anime_studio.on_modal.settings import APP_NAME
from anime_studio.prove.account import Account
from anime_studio.prove.memory import Memory
from anime_studio.prove.rows import Found
from common.prove import Verdict

SAME_WITHIN: Final = 0.01
BILL_DELAY: Final = timedelta(minutes=15)
"""After an hour's end: billing data come in with a delay of minutes (SDK reference, "billing")."""
RECEIPTS_OVER_BILL: Final = 1.1
BILL_OVER_COUNT: Final = 1.5
"""Chosen, not measured: what a bill may be above what this run counted, for web containers and idling after it."""


def prices(account: Account, machine: Machine, table: RateTable = MODAL_RATES) -> Found:
    """Compare today's prices with our table."""
    try:
        now = account.rates()
    except UnavailableError as error:
        return Found(Verdict.NOT_CHECKED, error.detail)
    ours = {name: usd for name, usd in table.gpu_usd_per_s.items() if usd}
    ours |= {"CPU": table.cpu_core_usd_per_s, "Memory": table.memory_gib_usd_per_s}
    found = {name: per_second(now, name, usd) for name, usd in ours.items()}
    lines = tuple(
        (name, f"${ours[name]:.8f}", f"${usd:.8f}", _off(usd, ours[name]))
        for name, usd in found.items()
        if usd is not None
    )
    shown = (("resource", "our table, a second", "now", "difference"), *lines)
    other = [
        f"{name} {_off(usd, ours[name])}"
        for name, usd in found.items()
        if usd is not None and abs(usd / ours[name] - 1) > SAME_WITHIN
    ]
    if other:
        return Found(
            Verdict.FALLS_SHORT,
            f"prices differ from MODAL_RATES of {table.as_of:%Y-%m-%d}: {', '.join(other)}; change "
            "anime_studio/core/pricing.py",
            shown,
        )
    needed = [name for name in (machine.gpu_type, "CPU", "Memory") if name in ours]
    if absent := [name for name in needed if found[name] is None]:
        return Found(
            Verdict.NOT_CHECKED,
            f"no price of today is recognised for {', '.join(absent)}; Modal names {', '.join(sorted(now))}",
            shown,
        )
    return Found(Verdict.HOLDS, f"{len(lines)} prices are those of MODAL_RATES", shown)


def per_second(now: Mapping[str, Decimal], name: str, ours_usd: float) -> float | None:
    """Return today's price of a resource for a second; None if no name in the list is its own.

    How Modal spells the names, and whether a price is for a second or an hour, is not documented. A name counts that
    ends as ours does, without signs and case; of the two readings of its price the nearer one counts.
    """
    wanted = {"CPU": ("cpu", "cpucore", "cpucores", "core"), "Memory": ("memory", "memorygib", "mem")}
    endings = wanted.get(name, (_letters(name),))
    matching = [key for key in now if _letters(key).endswith(endings)]
    if not matching:
        return None
    price = float(now[min(matching, key=len)])
    if price <= 0:
        return None
    return min((price, price / 3600), key=lambda usd: abs(math.log(usd / ours_usd)))


def bill(account: Account, memory: Memory, machine: Machine, counted_usd: float, now: datetime) -> Found:
    """Compare the bill of the run's hours with its receipts, by resource, and with what the run counted."""
    start, end = _hour(memory.begun_at), _hour(_last(memory)) + timedelta(hours=1)
    if now < end + BILL_DELAY:
        return Found(
            Verdict.NOT_CHECKED,
            f"the hour is not complete; run this again after {end + BILL_DELAY:%Y-%m-%d %H:%M} UTC",
        )
    try:
        lines = [line for line in account.bill(start, end) if line.tags.get("project") == APP_NAME]
    except UnavailableError as error:
        return Found(Verdict.NOT_CHECKED, error.detail)
    if not lines:
        return Found(
            Verdict.NOT_CHECKED, f"the bill of {start:%H:%M} to {end:%H:%M} UTC has no line of this app yet"
        )
    billed: Counter[str] = Counter()
    for line in lines:
        billed.update({_letters(name): usd for name, usd in line.usd_by_resource.items()})
    receipts = _by_resource(sum(each.usd for each in memory.receipts), machine)
    rows = [(name, usd, billed[_letters(name)]) for name, usd in receipts.items()]
    table = (
        ("resource", "receipts", "bill"),
        *((name, f"${usd:.4f}", f"${bill_usd:.4f}") for name, usd, bill_usd in rows),
    )
    total_usd = sum(line.usd for line in lines)
    summary = f"billed ${total_usd:.4f}, receipts ${sum(receipts.values()):.4f}, counted by this run ${counted_usd:.4f}"
    over = [name for name, usd, bill_usd in rows if usd > bill_usd * RECEIPTS_OVER_BILL]
    if over:
        return Found(
            Verdict.FALLS_SHORT, f"{summary}; receipts are above the bill for {', '.join(over)}", table
        )
    if total_usd > counted_usd * BILL_OVER_COUNT:
        return Found(
            Verdict.FALLS_SHORT,
            f"{summary}; the bill holds what nobody counts: idling, or other callers",
            table,
        )
    return Found(Verdict.HOLDS, f"{summary}; the rest is starts and idling", table)


def _off(now_usd: float, ours_usd: float) -> str:
    return f"{round(now_usd / ours_usd - 1, 3) + 0.0:+.1%}"  # never -0.0


def _by_resource(usd: float, machine: Machine, table: RateTable = MODAL_RATES) -> dict[str, float]:
    """Split receipts as the machine's rates are split."""
    parts = {
        machine.gpu_type: table.gpu_usd_per_s.get(machine.gpu_type, 0.0),
        "CPU": machine.cpu_cores * table.cpu_core_usd_per_s,
        "Memory": machine.memory_gib * table.memory_gib_usd_per_s,
    }
    whole = sum(parts.values())
    return {name: usd * part / whole for name, part in parts.items() if part}


def _last(memory: Memory) -> datetime:
    return max([memory.begun_at, *(each.ended_at for each in memory.receipts)])


def _hour(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
