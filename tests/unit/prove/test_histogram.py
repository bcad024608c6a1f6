"""The histogram of cold starts: what it counts, and that the table below has the same numbers."""

import re

import pytest

from anime_studio.prove.histogram import histogram


def table_of(page: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", page)
    return [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in rows]


def test_each_start_is_in_one_bar_of_its_kind():
    page = histogram({"restore": (1.4, 1.6, 0.3), "plain": (1.45,)}, "starts")
    assert table_of(page) == [
        ["seconds", "restore", "plain"],
        ["0.2 to 0.4", "1", "0"],
        ["1.4 to 1.6", "1", "1"],
        ["1.6 to 1.8", "1", "0"],
    ]
    assert "restore: 3" in page and "plain: 1" in page
    assert "Histogram of 4 starts by seconds" in page
    assert len(re.findall(r'<rect class="kind-\d" x=', page)) == 4


@pytest.mark.parametrize("longest_s", [0.0, 0.05, 1.6, 9.99, 60.0, 3600.0])
def test_bars_reach_beyond_the_longest_start(longest_s):
    page = histogram({"plain": (longest_s,)}, "starts")
    low, high = map(float, table_of(page)[1][0].split(" to "))
    assert low <= longest_s < high
    assert len(re.findall("<text", page)) <= 20, "a tick for each of at most 16 bars, one count, the unit"


def test_words_of_a_kind_are_escaped():
    page = histogram({"<b>": (1.0,)}, "starts")
    assert "<b>" not in page and "&lt;b&gt;" in page
