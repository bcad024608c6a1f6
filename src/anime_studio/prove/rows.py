"""What a row is, and how rows are checked one after another: resumed, within a budget, each result stored at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx
from pydantic import ValidationError

from anime_studio.checkpoints.atomic_folder import fsync
from anime_studio.client import StudioError, UnreachableError
from anime_studio.core.errors import AnimeStudioError, ConfigurationError
from anime_studio.prove.page import render_page
from common.prove import ProofReport, ProofRow, Verdict

REPORT, PAGE = "report.json", "report.html"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Found:
    """What a row saw.

    Attributes:
        verdict: How it ended.
        detail: What was seen, or why it was not checked.
        table: Figures behind it; the heading first.
        picture: File name of a PNG in the report's folder.
        starts_s: Seconds of each cold start, by kind; drawn as a histogram.
    """

    verdict: Verdict
    detail: str
    table: tuple[tuple[str, ...], ...] = ()
    picture: str | None = None
    starts_s: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row:
    """One thing to check.

    Attributes:
        name: As `--row` takes it.
        check: Looks, and says what it saw.
        expected_s: Seconds for which it should hold paid containers.
        usd_per_s: What a second of it costs; 0 where nothing is billed.
        counts_itself: It spends from the purse by itself, as a long row does that may be stopped in its middle.
        only_when_asked: Not among the rows that are checked when none is asked for by name.
    """

    name: str
    check: Callable[[], Found]
    expected_s: float = 0.0
    usd_per_s: float = 0.0
    counts_itself: bool = False
    only_when_asked: bool = False

    @property
    def expected_usd(self) -> float:
        """What it should cost."""
        return self.expected_s * self.usd_per_s


class Purse:
    """What was spent, against the budget; each expense is stored at once.

    Args:
        budget_usd: Nothing is begun that should pass it.
        spent_usd: By earlier runs.
        store: Called with the sum after each expense.
    """

    def __init__(self, budget_usd: float, spent_usd: float, store: Callable[[float], None]) -> None:
        self.budget_usd, self.spent_usd, self._store = budget_usd, spent_usd, store

    def spend(self, usd: float) -> None:
        """Count *usd*."""
        if usd:
            self.spent_usd += usd
            self._store(self.spent_usd)

    def too_little_for(self, usd: float) -> str | None:
        """Return why what should cost *usd* must not begin; None if it may."""
        if usd == 0 or self.spent_usd + usd <= self.budget_usd:
            return None
        return (
            f"${self.spent_usd:.2f} of --budget-usd {self.budget_usd:g} are spent, and this should cost ${usd:.3f}; "
            "run the same command with a higher --budget-usd, and it goes on here"
        )


class Proof:
    """The report in its folder, which is also the state from which a run resumes.

    Args:
        wanted: What is proved; the rows of an earlier report count only if all else is the same.
        folder: Where report and pictures are.
    """

    def __init__(self, wanted: ProofReport, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        earlier = _earlier(folder / REPORT)
        self.resumed = earlier is not None and _subject(earlier) == _subject(wanted)
        self.report = wanted
        if earlier is not None and self.resumed:
            self.report = earlier

    def check(self, rows: Sequence[Row], asked: Sequence[str], purse: Purse, say: Say) -> ProofReport:
        """Check the rows that are *asked* for; without any, those that were not yet checked."""
        done = {row.name: row for row in self.report.rows}
        for row in rows:
            open_yet = row.name not in done or done[row.name].verdict is Verdict.NOT_CHECKED
            if row.name in asked or (not asked and open_yet and not row.only_when_asked):
                done[row.name] = self._look(row, purse, say)
                self.keep(rows=tuple(done[each.name] for each in rows if each.name in done))
            if row.name in done:
                say(f"{done[row.name].verdict.value:<11}  {row.name:<11} {done[row.name].detail}")
        self.keep()
        write(self.folder / PAGE, render_page(self.report, self.folder))
        return self.report

    def keep(self, **changes: object) -> None:
        """Store the report with *changes*."""
        self.report = self.report.model_copy(update=changes)
        write(self.folder / REPORT, self.report.model_dump_json(indent=2))

    def _look(self, row: Row, purse: Purse, say: Say) -> ProofRow:
        expected = f"about ${row.expected_usd:.3f}" if row.expected_usd else "it costs nothing but time"
        begun, before_usd = time.monotonic(), purse.spent_usd
        if reason := purse.too_little_for(row.expected_usd):
            found = Found(Verdict.NOT_CHECKED, reason)
        else:
            say(f"checking {row.name}; {expected}")
            try:
                found = checked(row.check)
            finally:
                if not row.counts_itself:
                    purse.spend((time.monotonic() - begun) * row.usd_per_s)
        return ProofRow(
            name=row.name,
            verdict=found.verdict,
            detail=found.detail,
            table=found.table,
            picture=found.picture,
            starts_s=dict(found.starts_s),
            seconds=round(time.monotonic() - begun, 1),
            usd=round(purse.spent_usd - before_usd, 6),
            checked_at=datetime.now(UTC),
        )


def checked(check: Callable[[], Found]) -> Found:
    """Return what *check* found; an error that it did not expect is a row that falls short, in the error's own words.

    Where the network failed, nothing was seen: the row was not checked.
    """
    try:
        return check()
    except (UnreachableError, httpx.TransportError) as error:
        return Found(Verdict.NOT_CHECKED, f"no answer came: {error}")
    except AnimeStudioError as error:
        return Found(Verdict.FALLS_SHORT, error.detail)
    except StudioError as error:
        return Found(Verdict.FALLS_SHORT, error.problem.detail)
    except Exception as error:  # noqa: BLE001  one row's fault does not end the others
        return Found(Verdict.FALLS_SHORT, f"it ended by {type(error).__name__}: {error}")


def require_names(asked: Sequence[str], rows: Mapping[str, object] | Sequence[Row]) -> None:
    """Refuse names of rows that are not there.

    Raises:
        ConfigurationError: It lists the rows that are.
    """
    names = [row if isinstance(row, str) else row.name for row in rows]
    if unknown := set(asked) - set(names):
        raise ConfigurationError(f"no row {', '.join(sorted(unknown))}; there are: {', '.join(names)}")


def write(file: Path, text: str) -> None:
    """Write *file* whole or not at all."""
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(text, encoding="utf-8")
    fsync(partial)
    partial.replace(file)


def _subject(report: ProofReport) -> ProofReport:
    return report.model_copy(update={"rows": (), "spent_usd": 0.0, "expected_usd": 0.0})


def _earlier(file: Path) -> ProofReport | None:
    try:
        return ProofReport.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        raise ConfigurationError(f"{file} is no report of prove; name another folder with --out") from None
