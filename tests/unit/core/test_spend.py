"""What is added up for the day's and the month's budget."""

from datetime import UTC, datetime, timedelta

import pytest

from anime_studio.core.errors import BudgetSpentError
from anime_studio.core.jobs import JobRecord
from anime_studio.core.policy import Policy
from anime_studio.core.pricing import Machine
from anime_studio.core.spend import refuse_if_spent, spent_by_day, today_and_month
from common.schemas import Cost
from support.jobs import new_job, succeeded

L4 = Machine("L4", cpu_cores=2, memory_gib=6)
START = datetime(2026, 11, 30, 23, 50, tzinfo=UTC)


def drawn(begun_at: datetime, seconds: float, usd: float) -> JobRecord:
    ended = succeeded(new_job(created_at=begun_at).claimed(begun_at), begun_at + timedelta(seconds=seconds))
    return ended.model_copy(update={"cost": Cost(usd=usd, basis="test")})


def test_idling_is_added_up_to_the_window_and_not_past_the_next_job() -> None:
    policy = Policy(machine=L4, scaledown_window_s=20)
    jobs = [drawn(START, 10, 0.01), drawn(START + timedelta(seconds=15), 10, 0.01)]
    idle_s = 5 + 20
    (usd,) = spent_by_day(jobs[::-1], policy, START + timedelta(seconds=100)).values()
    assert usd == pytest.approx(0.02 + idle_s * L4.usd_per_s())
    (now,) = spent_by_day(jobs, policy, START + timedelta(seconds=28)).values()
    assert now == pytest.approx(0.02 + (5 + 3) * L4.usd_per_s()), "the last window is not over"


def test_the_text_container_is_added_for_busy_and_idle_seconds() -> None:
    policy = Policy(machine=L4, scaledown_window_s=20, text_usd_per_s=0.001)
    (usd,) = spent_by_day([drawn(START, 10, 0.01)], policy, START + timedelta(seconds=100)).values()
    assert usd == pytest.approx(0.01 + 20 * L4.usd_per_s() + (1.8 + 20) * 0.001)


def test_a_job_that_never_started_cost_nothing() -> None:
    job = new_job(created_at=START).cancelled(BudgetSpentError("x").problem(), START)
    assert spent_by_day([job], Policy(machine=L4, scaledown_window_s=20), START) == {}
    assert spent_by_day([], Policy(machine=L4), START) == {}


def test_days_and_months_are_those_of_utc_and_swept_days_count_once() -> None:
    by_day = {"2026-11-30": 1.0, "2026-12-01": 2.0}
    swept = {"2026-11-02": 4.0, "2026-11-30": 0.5, "2026-12-01": 3.0}
    assert today_and_month(by_day, swept, START) == (1.0, 5.0)
    assert today_and_month(by_day, swept, START + timedelta(hours=1)) == (3.0, 3.0)
    assert today_and_month({}, {}, START) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("today_usd", "month_usd", "expected_usd", "opens_at"),
    [
        (0.9, 9.0, 0.05, None),
        (0.9, 9.0, 0.2, "2026-12-01 00:00"),
        (0.1, 9.95, 0.1, "2026-12-01 00:00"),
        (1.0, 1.0, 0.0, None),
    ],
)
def test_what_would_pass_a_budget_is_refused_until_it_opens_again(
    today_usd: float, month_usd: float, expected_usd: float, opens_at: str | None
) -> None:
    policy = Policy(machine=L4, budget_usd_per_day=1.0, budget_usd_per_month=10.0)
    if opens_at is None:
        refuse_if_spent(today_usd, month_usd, expected_usd, policy, START)
        return
    with pytest.raises(BudgetSpentError, match=opens_at) as refused:
        refuse_if_spent(today_usd, month_usd, expected_usd, policy, START)
    assert refused.value.retry_after_s == 600
