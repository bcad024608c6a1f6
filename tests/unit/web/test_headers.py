"""`Prefer`, `X-Request-ID` and `traceparent`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anime_studio.web.prefer import Preference, read_preference
from anime_studio.web.request_ids import read_context

TRACE_ID, PARENT_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("values", "read"),
    [
        ([], Preference()),
        (["respond-async"], Preference(True)),
        (["Respond-Async; x=1"], Preference(True)),
        (["wait=10"], Preference(False, 10)),
        (['wait="10"'], Preference(False, 10)),
        (["respond-async, wait=10"], Preference(True, 10)),
        (["respond-async", "wait=10"], Preference(True, 10)),
        (["wait=10, wait=20"], Preference(False, 10)),
        (["wait=-1"], Preference()),
        (["wait=1.5"], Preference()),
        (["wait"], Preference()),
        (["wait=99999999999999"], Preference()),
        (["return=minimal,,;"], Preference()),
    ],
)
def test_preferences_are_read_and_strange_ones_ignored(values, read):
    assert read_preference(values) == read


@pytest.mark.parametrize(
    ("preference", "wait_s", "applied"),
    [
        (Preference(), 100.0, None),
        (Preference(respond_async=True), 0.0, "respond-async"),
        (Preference(wait_s=30), 30.0, "wait=30"),
        (Preference(wait_s=500), 100.0, "wait=100"),
        (Preference(True, 5), 5.0, "respond-async, wait=5"),
        (Preference(wait_s=0), 0.0, "wait=0"),
    ],
)
def test_the_wait_is_bounded_and_reported(preference, wait_s, applied):
    assert preference.bounded_wait_s(100.0) == wait_s
    assert preference.applied(wait_s) == applied


@given(st.lists(st.text(max_size=40), max_size=3))
def test_no_preference_breaks_it(values):
    assert 0 <= read_preference(values).bounded_wait_s(100.0) <= 100


@pytest.mark.parametrize("request_id", ["a", "A.b_c-9", "x" * 64])
def test_a_well_formed_request_id_is_used(request_id):
    assert read_context([request_id], []).request_id == request_id


@pytest.mark.parametrize("values", [[], [""], ["x" * 65], ["a b"], ["a\n"], ["ä"], ["{}"], ["a", "b"]])
def test_another_request_id_is_replaced_by_one_of_ours(values):
    first, second = read_context(values, []), read_context(values, [])

    assert first.request_id.startswith("r_")
    assert first.request_id != second.request_id


@pytest.mark.parametrize(
    "value",
    [f"00-{TRACE_ID}-{PARENT_ID}-01", f"00-{TRACE_ID}-{PARENT_ID}-ff", f"cc-{TRACE_ID}-{PARENT_ID}-01-more"],
)
def test_a_well_formed_traceparent_is_used(value):
    context = read_context([], [value])

    assert (context.traceparent, context.trace_id) == (value, TRACE_ID)


@pytest.mark.parametrize(
    "values",
    [
        [],
        [""],
        [f"00-{TRACE_ID}-{PARENT_ID}"],
        [f"00-{TRACE_ID}-{PARENT_ID}-01-more"],
        [f"ff-{TRACE_ID}-{PARENT_ID}-01"],
        [f"00-{'0' * 32}-{PARENT_ID}-01"],
        [f"00-{TRACE_ID}-{'0' * 16}-01"],
        [f"00-{TRACE_ID.upper()}-{PARENT_ID}-01"],
        [f"00-{TRACE_ID}-{PARENT_ID}-01\n"],
        [f"cc-{TRACE_ID}-{PARENT_ID}-01-" + "x" * 200],
        [f"00-{TRACE_ID}-{PARENT_ID}-01"] * 2,
    ],
)
def test_another_traceparent_is_dropped(values):
    context = read_context([], values)

    assert (context.traceparent, context.trace_id) == (None, None)
