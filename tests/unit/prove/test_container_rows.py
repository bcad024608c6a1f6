"""Forced starts and deployed settings, with an account that answers as it is told."""

from dataclasses import dataclass, field
from datetime import datetime

import pytest

from anime_studio.on_modal.settings import ModalSettings
from anime_studio.prove.account import TaskRecord
from anime_studio.prove.container_rows import ContainerRows, nearest_rank
from anime_studio.prove.memory import MemoryFile
from anime_studio.prove.rows import Purse
from common.prove import ContainerReport, Verdict


@dataclass
class ToldAccount:
    """Stands for a Modal account: each stop is followed by the next of *kinds*."""

    kinds: list[str]
    settings: ModalSettings
    has_records: bool = True
    errors: int | None = 0
    stopped: list[str] = field(default_factory=list)
    _reports: dict[str, int] = field(default_factory=dict)

    def report(self) -> ContainerReport:
        name = f"ta-{len(self.stopped)}"
        self._reports[name] = self._reports.get(name, 0) + 1
        kind = self._kind(name)
        own = {"restore": "restored", "recovered": "recovered"}.get(kind, "cold")
        return ContainerReport(
            container=name,
            first=self._reports[name] == 1,
            start_kind=own,
            start_s=0.0,
            settings=self.settings.as_environment(),
            refused=("fp8_linears",),
            device="NVIDIA L4",
        )

    def record_of(self, container: str) -> TaskRecord | None:
        if not self.has_records:
            return None
        kind = self._kind(container).replace("recovered", "restore")
        return TaskRecord(kind=kind, queued_s=1.5, ended=container in self.stopped)

    def stop(self, container: str) -> None:
        self.stopped.append(container)

    def errors_since(self, moment: datetime) -> int | None:
        return self.errors

    def _kind(self, name: str) -> str:
        return ["plain", *self.kinds][int(name.removeprefix("ta-"))]


def rows_of(tmp_path, kinds, *, budget_usd=1.0, **changes):
    settings = ModalSettings(snapshot=changes.pop("snapshot", "gpu"))
    account = ToldAccount(kinds, settings, **changes)
    kept = MemoryFile(tmp_path, resumed=True)
    purse = Purse(budget_usd, 0.0, lambda _: None)
    return ContainerRows(settings, account, tmp_path, kept, purse, print)


RESTORES = ["snapshot"] + ["restore"] * 4


@pytest.mark.parametrize(
    ("kinds", "changes", "verdict", "words"),
    [
        (RESTORES, {}, Verdict.HOLDS, "SNAPSHOT=gpu"),
        (RESTORES, {"has_records": False}, Verdict.HOLDS, "by the container's own word"),
        (["snapshot", "restore", "plain", "plain", "restore"], {}, Verdict.FALLS_SHORT, "SNAPSHOT=cpu"),
        (
            ["snapshot", "restore", "recovered", "recovered", "restore"],
            {},
            Verdict.FALLS_SHORT,
            "SNAPSHOT=cpu",
        ),
        (RESTORES, {"errors": 1}, Verdict.FALLS_SHORT, "5 of them crashed"),
        (RESTORES, {"errors": None}, Verdict.HOLDS, "0 of them crashed"),
        (RESTORES, {"errors": 1, "snapshot": "cpu"}, Verdict.FALLS_SHORT, "SNAPSHOT=off"),
        (["plain"] * 5, {"snapshot": "off"}, Verdict.HOLDS, "SNAPSHOT=off"),
        (["snapshot"] * 5, {}, Verdict.NOT_CHECKED, "more --starts"),
    ],
)
def test_the_verdict_on_snapshots(tmp_path, kinds, changes, verdict, words):
    found = rows_of(tmp_path, kinds, **changes).starts(5)
    assert found.verdict is verdict
    assert words in found.detail


def test_starts_go_on_where_they_stopped_and_are_forced_anew_when_complete(tmp_path):
    assert rows_of(tmp_path, RESTORES).starts(2).table[1][:2] == ("snapshot", "1")
    rows = rows_of(tmp_path, ["restore"] * 3)
    found = rows.starts(5)
    assert [line[1] for line in found.table[1:]] == ["1", "4"]
    assert {kind: len(seconds) for kind, seconds in found.starts_s.items()} == {"snapshot": 1, "restore": 4}
    again = rows_of(tmp_path, ["restore"] * 5).starts(5)
    assert [line[:2] for line in again.table[1:]] == [("restore", "5")]


def test_starts_stop_at_the_budget(tmp_path):
    found = rows_of(tmp_path, RESTORES, budget_usd=0.0).starts(5)
    assert found.verdict is Verdict.NOT_CHECKED
    assert found.detail.startswith("0 of 5 starts; ")


def test_a_container_that_always_is_there_is_told(tmp_path):
    rows = rows_of(tmp_path, RESTORES, has_records=False)
    rows._account.stop = lambda container: None
    with pytest.raises(RuntimeError, match="MIN_CONTAINERS"):
        rows.starts(5)


def test_refused_paths_and_other_deployed_settings_fall_short(tmp_path):
    rows = rows_of(tmp_path, RESTORES)
    assert "refused: fp8_linears" in rows.device().detail
    other = rows_of(tmp_path, RESTORES)
    other._account.settings = ModalSettings(gpu="L40S")
    found = other.device()
    assert found.verdict is Verdict.FALLS_SHORT
    assert "ANIME_STUDIO_GPU is L40S, here L4" in found.detail


def test_nearest_rank_is_a_measured_value():
    values = [1.0, 5.0, 2.0, 9.0]
    assert (nearest_rank(values, 50), nearest_rank(values, 95)) == (2.0, 9.0)
