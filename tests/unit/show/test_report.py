"""The report after the show: one complete file with every job in it."""

import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import pytest

from anime_studio.cli.show_report import LEFT, WIDTH, Poster, render_report
from common.schemas import Cost, JobState, Readiness, Resolution, Timings
from common.show import FinishedJob, Percentiles, ShowStatus, Spend

NOW = datetime(2026, 11, 23, 23, 0, tzinfo=UTC)
VOID = {"meta", "img"}


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
            queue_s=1,
            start_s=0.5,
            text_s=0.1,
            denoise_s=1,
            decode_s=0.5,
            upscale_s=0.2,
            store_s=0.1,
            total_s=3.4,
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
        stages_by_size={Resolution.P480: {"total": Percentiles(count=1, p50_s=3, p95_s=3)}},
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
    assert outline.count["rect"] == 2 * 7  # seven stages of each clip
    assert all(outline.text.count(f"r_<{number}>") == 2 for number in (1, 2, 3))  # a dot's title, and a row
    assert "Every job: 3" in outline.text


def test_two_sizes_have_their_seconds_apart() -> None:
    night = status(job(1))
    large = {Resolution.P1080: {"total": Percentiles(count=1, p50_s=9.25, p95_s=9.5)}}
    text = Outline(
        render_report(night.model_copy(update={"stages_by_size": night.stages_by_size | large}))
    ).text
    assert "480pIn all3.003.0011080pIn all9.259.501" in text
    assert "of 480p, p95 3.0 s" in text
    assert "480p" not in Outline(render_report(night)).text


def test_a_job_has_its_size_beside_its_seconds() -> None:
    large = job(1).model_copy(update={"resolution": Resolution.P1080_PORTRAIT})
    assert "3.401080p-portrait" in Outline(render_report(status(large))).text


def test_what_comes_from_outside_is_text() -> None:
    poster = Poster(b"\xff\xd8", "<i>prompt</i>" + "w" * 500, "<b>mia</b>", NOW)
    document = render_report(status(job(1, JobState.FAILED)), [poster])
    assert "<i>" not in document
    assert "<b>mia" not in document
    assert "for <b>mia</b>" in Outline(document).text
    assert "<demo>" not in document
    assert "r_<1>" not in document
    assert "worker_died" in Outline(document).text


@pytest.mark.parametrize("jobs", [(), (job(1),), (job(1, JobState.CANCELLED, usd=0),)])
def test_a_short_night_still_has_a_report(jobs: tuple[FinishedJob, ...]) -> None:
    assert Outline(render_report(status(*jobs))).open == []


def places(document: str, mark: str, coordinate: str) -> list[float]:
    return [float(value) for value in re.findall(rf'<{mark}[^>]* {coordinate}="([-0-9.]+)"', document)]


@pytest.mark.parametrize("count", [1, 8, 500])
def test_each_job_has_a_place_of_its_own_within_the_chart(count: int) -> None:
    at_one_moment = [job(1).model_copy(update={"request_id": f"r_{number}"}) for number in range(count)]
    document = render_report(status(*at_one_moment))
    centres = places(document, "circle", "cx")
    assert len(set(centres)) == count
    assert LEFT < min(centres) <= max(centres) < WIDTH
    lefts, widths = places(document, "rect", "x"), places(document, "rect", "width")
    assert len(set(lefts)) == count
    assert all(
        left >= LEFT and left + width <= WIDTH + 0.1 for left, width in zip(lefts, widths, strict=True)
    )
    assert max(widths) <= 40  # one clip is a bar, not a wall
