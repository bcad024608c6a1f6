"""What a deployment has spent today and this month: receipts, and the idling that is known. Days and months are UTC's.

A receipt counts a job's own seconds. Between two jobs the container idles, at most `scaledown_window_s`, and the text
container runs beside it. Both are added here. Not counted: starts that no job waited for, further containers' idling,
web containers. Modal's bill is the truth; this sum is for stopping early.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import zip_longest

from anime_studio.core.errors import BudgetSpentError
from anime_studio.core.jobs import JobRecord
from anime_studio.core.policy import Policy
from anime_studio.core.pricing import billed_seconds


def day_of(moment: datetime) -> str:
    """Return the day in UTC, as `2026-11-27`."""
    return f"{moment:%Y-%m-%d}"


def spent_by_day(jobs: Sequence[JobRecord], policy: Policy, now: datetime) -> dict[str, float]:
    """Return the US dollars of each day on which one of *jobs*, final and in any order, ended."""
    drawn = [job for job in jobs if job.started_at is not None and job.finished_at is not None]
    drawn.sort(key=lambda job: job.finished_at or now)
    by_day: defaultdict[str, float] = defaultdict(float)
    for job, following in zip_longest(drawn, drawn[1:]):
        ended_at = job.finished_at or now
        next_at = now if following is None or following.started_at is None else following.started_at
        idle_s = min(policy.scaledown_window_s, max(0.0, (next_at - ended_at).total_seconds()))
        text_usd = (billed_seconds(job.timings) + idle_s) * policy.text_usd_per_s
        receipt_usd = 0.0 if job.cost is None else job.cost.usd
        by_day[day_of(ended_at)] += receipt_usd + idle_s * policy.machine.usd_per_s() + text_usd
    return dict(by_day)


def today_and_month(
    by_day: Mapping[str, float], swept: Mapping[str, float], now: datetime
) -> tuple[float, float]:
    """Return the US dollars of this day and of this month; *swept* knows days whose jobs may be gone."""
    days = {day: max(by_day.get(day, 0.0), swept.get(day, 0.0)) for day in by_day.keys() | swept.keys()}
    today = day_of(now)
    return days.get(today, 0.0), sum(usd for day, usd in days.items() if day[:7] == today[:7])


def refuse_if_spent(
    today_usd: float, month_usd: float, expected_usd: float, policy: Policy, now: datetime
) -> None:
    """Refuse a job that would pass the day's or the month's budget, before it wakes a GPU.

    Args:
        today_usd: Spent since midnight, UTC.
        month_usd: Spent since the first of the month.
        expected_usd: What the job and the open ones before it should cost; 0 where unknown.
        policy: The budgets.
        now: Aware UTC time.

    Raises:
        BudgetSpentError: The detail says both sums and when orders are taken again.
    """
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    first = (now.replace(day=1) + timedelta(days=32)).replace(
        day=1, hour=0, minute=0, second=0, microsecond=0
    )
    for spent_usd, budget_usd, period, variable, opens_at in (
        (month_usd, policy.budget_usd_per_month, "month", "ANIME_STUDIO_BUDGET_USD_PER_MONTH", first),
        (today_usd, policy.budget_usd_per_day, "day", "ANIME_STUDIO_BUDGET_USD_PER_DAY", midnight),
    ):
        if budget_usd is not None and spent_usd + expected_usd > budget_usd:
            raise BudgetSpentError(
                f"${spent_usd:.2f} of the {period}'s budget of ${budget_usd:.2f} are spent, and ${expected_usd:.2f} are "
                f"expected for the open orders and this one; orders are taken again at {opens_at:%Y-%m-%d %H:%M} UTC, or "
                f"when {variable} is raised",
                retry_after_s=(opens_at - now).total_seconds(),
            )
