"""Links seen from outside, of a studio that answers as it is told."""

from datetime import UTC, datetime

import httpx
import pytest

from anime_studio.prove.account import Account
from anime_studio.prove.http_rows import HttpRows
from anime_studio.prove.memory import MemoryFile
from common.prove import Verdict
from common.schemas import Clip

MP4 = b"0123ftypisom" * 4


def rows_at(tmp_path, *, base_url=None, begin="https://studio.example", heeds_range=True, checks=True):
    clip = Clip(
        clip_id="c_" + "0" * 32,
        url=f"{begin}/outputs/c?expires=2000000000&signature=s",
        poster_url=f"{begin}/outputs/c/poster",
        expires_at=datetime.now(UTC),
        expires_in_s=900,
        size_bytes=len(MP4),
        sha256="0" * 64,
        width=1,
        height=1,
        num_frames=1,
        fps=16,
        duration_s=0.1,
    )

    def answer(request: httpx.Request) -> httpx.Response:
        if checks and request.url.params["expires"] != "2000000000":
            return httpx.Response(403)
        if heeds_range and "range" in request.headers:
            return httpx.Response(206, content=MP4[4:12])
        return httpx.Response(200, content=MP4)

    kept = MemoryFile(tmp_path, resumed=True)
    rows = HttpRows("https://studio.example", Account(), kept, print, base_url=base_url)
    rows._http = httpx.Client(transport=httpx.MockTransport(answer))
    rows._some_clip = lambda: clip
    return rows


@pytest.mark.parametrize(
    ("changes", "verdict", "words"),
    [
        ({}, Verdict.HOLDS, "links begin with https://studio.example"),
        ({"begin": "http://10.0.0.7:8000"}, Verdict.FALLS_SHORT, "links begin with http://10.0.0.7:8000"),
        (
            {"begin": "https://clips.example", "base_url": "https://clips.example/"},
            Verdict.HOLDS,
            "links begin with https://clips.example",
        ),
        (
            {"base_url": "https://clips.example"},
            Verdict.FALLS_SHORT,
            "the studio is at https://clips.example",
        ),
        ({"heeds_range": False}, Verdict.FALLS_SHORT, "a Range answered 200 with 48 bytes"),
        ({"checks": False}, Verdict.FALLS_SHORT, "expiry was altered answered 200"),
    ],
)
def test_links_are_opened_as_players_and_strangers_do(tmp_path, changes, verdict, words):
    found = rows_at(tmp_path, **changes).links()
    assert (found.verdict, words in found.detail) == (verdict, True), found.detail
