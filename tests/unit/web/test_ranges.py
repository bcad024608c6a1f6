"""`Range` and `If-None-Match` as RFC 9110 defines them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anime_studio.web.ranges import MOST_RANGES, RangeNotSatisfiableError, matches_etag, satisfiable

SIZE = 1000


@pytest.mark.parametrize(
    ("asked", "satisfied"),
    [
        ("bytes=0-0", "bytes=0-0"),
        ("bytes=0-", "bytes=0-"),
        ("bytes=-1", "bytes=-1"),
        ("bytes=-5000", "bytes=-5000"),
        ("bytes=999-5000", "bytes=999-5000"),
        ("BYTES = 0 - 1 , 5-6", "bytes=0-1,5-6"),
        ("bytes=0-1,1000-,5-6,-0", "bytes=0-1,5-6"),
        ("bytes=,0-1,", "bytes=0-1"),
    ],
)
def test_ranges_within_the_file_are_satisfied(asked, satisfied):
    assert satisfiable(asked, SIZE) == satisfied


@pytest.mark.parametrize("asked", ["bytes=1000-", "bytes=1000-2000", "bytes=-0", "bytes=1000-,-0"])
def test_none_within_the_file(asked):
    with pytest.raises(RangeNotSatisfiableError):
        satisfiable(asked, SIZE)


def test_an_empty_file_satisfies_no_range():
    with pytest.raises(RangeNotSatisfiableError):
        satisfiable("bytes=0-", 0)


@pytest.mark.parametrize(
    "asked",
    ["", "bytes", "bytes=", "bytes=-", "bytes=a-", "bytes=1-0", "bytes=0-1,5-4", "bytes=0--1", "bytes=²-³", "items=0-1",
     "bytes=0x0-0x1", "bytes=1_0-2_0", "bytes=" + "9" * 5000 + "-"],
)  # fmt: skip
def test_what_is_not_understood_is_ignored(asked):
    assert satisfiable(asked, SIZE) is None


def test_many_ranges_are_ignored_at_the_bound():
    assert satisfiable("bytes=" + ",".join(["0-0"] * MOST_RANGES), SIZE) is not None
    assert satisfiable("bytes=" + ",".join(["0-0"] * (MOST_RANGES + 1)), SIZE) is None


@given(st.text(max_size=60), st.integers(0, 2**40))
def test_no_header_breaks_it(asked, size_bytes):
    for text in (asked, f"bytes={asked}"):
        try:
            satisfied = satisfiable(text, size_bytes)
        except RangeNotSatisfiableError:
            continue
        assert satisfied is None or satisfied.startswith("bytes=")


@pytest.mark.parametrize("value", ['"a"', 'W/"a"', '"b", "a"', '"b",W/"a"', "*"])
def test_a_known_etag_matches(value):
    assert matches_etag(value, '"a"')


@pytest.mark.parametrize("value", ["", "a", '"b"', '"a', "**"])
def test_another_etag_does_not(value):
    assert not matches_etag(value, '"a"')
