"""The report after the show: one file, whole, and true."""

from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import pytest

from anime_studio.cli.show_report import render_report
from common.schemas import Cost, JobState, Readiness, Timings
from common.show import FinishedJob, Percentiles, ShowStatus, Spend

NOW = datetime(2026, 11, 23, 23, 0, tzinfo=UTC)
VOID = {"meta"}


class Outline(HTMLParser):
    """Elements by name, links to elsewhere, and whether every element is closed in order."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.count: dict[str, int] = {}
        self.elsewhere: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        self.elsewhere += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def job(number: int, state: JobState = JobState.SUCCEEDED, usd: float = 0.01) -> FinishedJob:
    created_at = NOW - timedelta(minutes=60 - number)
    return FinishedJob(
        request_id=f"r_<{number}>",
        created_at=created_at,
        finished_at=created_at + timedelta(seconds=3 + number),
        state=state,
        timings=Timings(
            queue_s=1, start_s=0.5, text_s=0.1, denoise_s=1, decode_s=0.5, store_s=0.1, total_s=3
        ),
        cost=Cost(usd=usd, basis="measured"),
        error_code="worker_died" if state is JobState.FAILED else None,
    )


def status(*jobs: FinishedJob) -> ShowStatus:
    return ShowStatus(
        now=NOW, window_s=3600, version="1", recipe="<demo>", uptime_s=1,
        readiness=Readiness(ready=True, status="ready", detail="idle"),
        finished=len(jobs), succeeded=len(jobs), failed=0, cancelled=0, success_rate=1.0, cold_starts=0, starts={},
        stages={"total": Percentiles(count=1, p50_s=3, p95_s=3)},
        spend=Spend(usd=0.02, usd_per_clip=0.01, budget_usd_per_clip=0.02, budget_used=0.5),
        signals={}, fallbacks=0, errors=[], jobs=list(jobs),
    )  # fmt: skip


def test_it_stands_alone_and_is_well_formed() -> None:
    outline = Outline(render_report(status(job(1), job(2), job(3, JobState.FAILED))))
    assert outline.open == []
    assert outline.elsewhere == []
    assert "script" not in outline.count
    assert outline.count["svg"] == 3


def test_every_job_has_its_mark() -> None:
    outline = Outline(render_report(status(job(1), job(2), job(3, JobState.FAILED))))
    assert outline.count["circle"] == 3
    assert outline.count["rect"] == 2 * 6  # six stages of each clip


def test_what_comes_from_outside_is_text() -> None:
    document = render_report(status(job(1, JobState.FAILED)))
    assert "<demo>" not in document
    assert "r_<1>" not in document
    assert "worker_died" in Outline(document).text


@pytest.mark.parametrize("jobs", [(), (job(1),), (job(1, JobState.CANCELLED, usd=0),)])
def test_a_short_night_still_has_a_report(jobs: tuple[FinishedJob, ...]) -> None:
    assert Outline(render_report(status(*jobs))).open == []
