"""Rows one after another: resumed, within a budget, and with errors that nobody expected."""

import httpx
import pytest

from anime_studio.core.errors import ConfigurationError
from anime_studio.prove.page import in_words
from anime_studio.prove.rows import Found, Proof, Purse, Row, require_names
from common.prove import ProofReport, Verdict

WANTED = ProofReport(version="1", recipe="demo", device="cpu", settings={"decoder": "full"})


def holding() -> Found:
    return Found(Verdict.HOLDS, "seen", table=(("a", "b"), ("1", "<2>")))


def breaking() -> Found:
    raise RuntimeError("the card went away")


def unanswered() -> Found:
    raise httpx.ConnectError("refused")


def a_purse(budget_usd: float = 0.0, spent_usd: float = 0.0) -> Purse:
    return Purse(budget_usd, spent_usd, lambda _: None)


def test_an_error_of_one_row_does_not_end_the_others(tmp_path):
    rows = [Row("one", breaking), Row("two", holding)]
    report = Proof(WANTED, tmp_path).check(rows, [], a_purse(), print)
    assert [row.verdict for row in report.rows] == [Verdict.FALLS_SHORT, Verdict.HOLDS]
    assert report.rows[0].detail == "it ended by RuntimeError: the card went away"
    assert in_words(report) == "1 row holds, 1 falls short"
    assert "<td>&lt;2&gt;</td>" in (tmp_path / "report.html").read_text()


def test_a_row_that_the_network_kept_from_looking_was_not_checked(tmp_path):
    report = Proof(WANTED, tmp_path).check([Row("one", unanswered)], [], a_purse(), print)
    assert (report.rows[0].verdict, report.rows[0].detail) == (Verdict.NOT_CHECKED, "no answer came: refused")


def test_rows_that_were_checked_are_not_checked_again(tmp_path):
    Proof(WANTED, tmp_path).check([Row("one", holding)], [], a_purse(), print)
    again = Proof(WANTED, tmp_path)
    report = again.check([Row("one", breaking), Row("two", holding)], [], a_purse(), print)
    assert [row.verdict for row in report.rows] == [Verdict.HOLDS, Verdict.HOLDS]


@pytest.mark.parametrize("change", [{"settings": {"decoder": "tiny"}}, {"recipe": "other"}, {"version": "2"}])
def test_rows_of_other_settings_do_not_count(tmp_path, change):
    Proof(WANTED, tmp_path).check([Row("one", holding)], [], a_purse(), print)
    other = Proof(WANTED.model_copy(update=change), tmp_path)
    assert not other.resumed
    assert other.report.rows == ()


def test_nothing_begins_that_should_pass_the_budget(tmp_path):
    rows = [Row("dear", breaking, expected_s=10, usd_per_s=0.1), Row("free", holding)]
    report = Proof(WANTED, tmp_path).check(rows, [], a_purse(budget_usd=0.99), print)
    assert [row.verdict for row in report.rows] == [Verdict.NOT_CHECKED, Verdict.HOLDS]
    assert "--budget-usd 0.99" in report.rows[0].detail
    assert in_words(report) == "1 row holds, 1 was not checked"


def test_what_a_row_spent_counts_also_when_it_is_checked_twice(tmp_path):
    spent: list[float] = []
    purse = Purse(10, 0, spent.append)
    proof = Proof(WANTED, tmp_path)

    def paying() -> Found:
        purse.spend(1.5)
        return holding()

    for asked in ([], ["one"]):
        report = proof.check([Row("one", paying, counts_itself=True)], asked, purse, print)
    assert spent == [1.5, 3.0]
    assert report.rows[0].usd == 1.5


def test_a_row_that_must_be_asked_for_is_last_and_left_out_of_a_whole_run(tmp_path):
    rows = [Row("one", holding), Row("two", holding), Row("bill", holding, only_when_asked=True)]
    assert [row.name for row in Proof(WANTED, tmp_path).check(rows, [], a_purse(), print).rows] == [
        "one",
        "two",
    ]
    asked = Proof(WANTED, tmp_path).check(rows, ["bill"], a_purse(), print)
    assert [row.name for row in asked.rows] == ["one", "two", "bill"]
    whole = Proof(WANTED, tmp_path).check(rows, [], a_purse(), print)
    assert whole.rows == asked.rows


def test_a_file_that_is_no_report_is_left_alone(tmp_path):
    (tmp_path / "report.json").write_text("[]")
    with pytest.raises(ConfigurationError, match="no report of prove"):
        Proof(WANTED, tmp_path)


def test_a_wrong_name_lists_the_rows():
    with pytest.raises(ConfigurationError, match="no row nope; there are: one"):
        require_names(["nope"], [Row("one", holding)])
