"""`/outputs` over a real socket: what a player can do with a signed link, and what nobody can."""

import contextlib
import io
import json
import logging
import re
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

import av
import httpx
import pytest
import structlog

from anime_studio.core.jobs import Asset, ClipFile, StoredClip
from anime_studio.core.signing import UrlSigner
from anime_studio.on_laptop.clips import FolderClips
from anime_studio.settings import Settings
from anime_studio.telemetry import configure_logging
from common.schemas import Clip, Job, Problem
from support.server_rig import KEY, ServerRig, until
from support.shared_server import SharedServer

EVERY_HEADER_BUT_THESE = {"date", "x-request-id", "server"}


def make_clip(rig: ServerRig, http: httpx.Client, seed: int = 1) -> tuple[Job, Clip]:
    job_id = http.post(
        "/generate", json={"prompt": "a fox", "seed": seed}, headers={"Prefer": "respond-async"}
    ).json()["job_id"]
    rig.render_next()
    return read(http, job_id)


def read(http: httpx.Client, job_id: str) -> tuple[Job, Clip]:
    job = Job.model_validate(http.get(f"/jobs/{job_id}").json())
    assert job.clip is not None
    return job, job.clip


def changed(url: str, **changes: str | None) -> str:
    query = dict(parse_qsl(urlsplit(url).query)) | changes
    return f"{urlsplit(url).path}?{urlencode({name: value for name, value in query.items() if value is not None})}"


def code_of(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["cache-control"] == "no-store"
    return answer.status_code, Problem.model_validate(answer.json()).code


@pytest.fixture
def clip(rig: ServerRig, http: httpx.Client) -> Clip:
    return make_clip(rig, http)[1]


@pytest.fixture
def mp4(http: httpx.Client, clip: Clip) -> bytes:
    return http.get(clip.url).content


class TestBytes:
    def test_a_whole_clip_plays(self, http, clip):
        answer = http.get(clip.url)

        assert answer.status_code == 200
        assert answer.headers["content-type"] == "video/mp4"
        assert answer.headers["etag"] == f'"{clip.sha256}"'
        assert int(answer.headers["content-length"]) == clip.size_bytes == len(answer.content)
        assert answer.content.index(b"moov") < answer.content.index(b"mdat")
        with av.open(io.BytesIO(answer.content)) as container:
            assert sum(1 for _ in container.decode(video=0)) == clip.num_frames

    def test_a_player_plays_it_from_its_url(self, clip):
        with av.open(clip.url) as container:  # FFmpeg's own HTTP client, seeking by Range
            container.seek(500_000)
            assert next(container.decode(video=0)).width == clip.width

    def test_the_poster_is_signed_alike(self, http, clip):
        answer = http.get(clip.poster_url)

        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
        assert answer.content[:2] == b"\xff\xd8"
        assert http.get(changed(clip.url).replace("?", "/poster?")).status_code == 403

    @pytest.mark.parametrize("headers", [{}, {"Range": "bytes=10-19"}, {"Range": "bytes=999999999-"}])
    def test_head_is_get_without_the_body(self, http, clip, headers):
        got, headed = http.get(clip.url, headers=headers), http.head(clip.url, headers=headers)

        def shown(answer: httpx.Response) -> dict[str, str]:
            headers = {k: v for k, v in answer.headers.items() if k not in EVERY_HEADER_BUT_THESE}
            # A second may pass between the two.
            return headers | {"cache-control": re.sub(r"max-age=\d+", "", headers["cache-control"])}

        assert (headed.status_code, headed.content) == (got.status_code, b"")
        assert shown(headed) == shown(got)

    def test_headers_for_browsers_and_caches(self, http, clip):
        headers = http.get(clip.url).headers

        assert headers["accept-ranges"] == "bytes"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["access-control-allow-origin"] == "*"
        assert {"content-range", "content-length"} <= set(
            headers["access-control-expose-headers"].lower().split(", ")
        )
        cache = re.fullmatch(r"private, max-age=(\d+), immutable", headers["cache-control"])
        assert cache
        assert 0 < int(cache[1]) <= 900
        assert headers["content-disposition"] == f'inline; filename="{clip.clip_id}.mp4"'

    def test_a_copy_may_not_outlive_its_link(self, rig, http, clip):
        rig.clock.stop_at(clip.expires_at - timedelta(seconds=10))

        assert int(http.get(clip.url).headers["cache-control"].split("max-age=")[1].split(",")[0]) == 10

    def test_a_download_is_signed_as_one(self, http, clip):
        assert code_of(http.get(changed(clip.url, dl="1"))) == (403, "url_invalid")

        link = UrlSigner([KEY]).sign(clip.clip_id, Asset.VIDEO, clip.expires_at, download=True)
        answer = http.get(link)
        assert answer.headers["content-disposition"] == f'attachment; filename="{clip.clip_id}.mp4"'
        assert code_of(http.get(changed(link, dl=None))) == (403, "url_invalid")

    def test_a_preflight_is_the_same_for_every_id(self, http, clip):
        asked = {"Origin": "https://x.example", "Access-Control-Request-Method": "GET"}
        known = http.options(f"/outputs/{clip.clip_id}", headers=asked)
        unknown = http.options("/outputs/c_" + "0" * 32, headers=asked)

        assert known.status_code == unknown.status_code == 204
        assert known.headers["access-control-allow-methods"] == "GET, HEAD"
        assert "Range" in known.headers["access-control-allow-headers"]
        assert {k: v for k, v in known.headers.items() if k not in EVERY_HEADER_BUT_THESE} == {
            k: v for k, v in unknown.headers.items() if k not in EVERY_HEADER_BUT_THESE
        }


class TestRanges(SharedServer):
    @pytest.mark.parametrize(
        ("asked", "first", "last"),
        [
            ("bytes=0-0", 0, 0),
            ("bytes=10-19", 10, 19),
            ("bytes=10-", 10, None),
            ("bytes=-5", -5, None),
            ("bytes=-999999999", 0, None),
            ("bytes=5-999999999", 5, None),
            ("Bytes=3-9", 3, 9),
            ("bytes=0-4,999999999-", 0, 4),
        ],
    )
    def test_one_range_is_206(self, http, clip, mp4, asked, first, last):
        answer = http.get(clip.url, headers={"Range": asked})

        size = len(mp4)
        first = size + first if first < 0 else first
        last = size - 1 if last is None else last
        assert answer.status_code == 206
        assert answer.headers["content-range"] == f"bytes {first}-{last}/{size}"
        assert answer.content == mp4[first : last + 1]
        assert int(answer.headers["content-length"]) == last + 1 - first
        assert answer.headers["etag"] == f'"{clip.sha256}"'

    def test_several_ranges_are_multipart(self, http, clip, mp4):
        answer = http.get(clip.url, headers={"Range": "bytes=0-3,10-13"})

        assert answer.status_code == 206
        assert answer.headers["content-type"].startswith("multipart/byteranges; boundary=")
        parts = answer.content.split(b"--" + answer.headers["content-type"].split("=")[1].encode())
        bodies = [part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for part in parts[1:-1]]
        assert bodies == [mp4[0:4], mp4[10:14]]

    @pytest.mark.parametrize("asked", ["bytes=999999999-", "bytes=-0", "bytes=999999999-,888888888-"])
    def test_none_within_the_file_is_416(self, http, clip, asked):
        answer = http.get(clip.url, headers={"Range": asked})

        assert code_of(answer) == (416, "range_not_satisfiable")
        assert answer.headers["content-range"] == f"bytes */{clip.size_bytes}"

    @pytest.mark.parametrize("asked", ["bytes=9-3", "items=0-3", f"bytes={','.join(['0-0'] * 1000)}"])
    def test_what_is_no_range_is_ignored(self, http, clip, mp4, asked):
        answer = http.get(clip.url, headers={"Range": asked})

        assert (answer.status_code, answer.content) == (200, mp4)

    @pytest.mark.parametrize(
        ("if_range", "status"),
        [("this", 206), ('"another"', 200), ("W/this", 200), ("Wed, 21 Oct 2015 07:28:00 GMT", 200)],
    )
    def test_if_range_resumes_the_same_bytes_only(self, http, clip, if_range, status):
        if_range = if_range.replace("this", f'"{clip.sha256}"')
        answer = http.get(clip.url, headers={"Range": "bytes=0-3", "If-Range": if_range})

        assert answer.status_code == status

    def test_a_range_past_the_end_counts_only_if_the_bytes_are_the_same(self, http, clip):
        answer = http.get(clip.url, headers={"Range": "bytes=999999999-", "If-Range": '"another"'})

        assert answer.status_code == 200

    @pytest.mark.parametrize("etag", ["this", "W/this", '"another", this', "*"])
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_a_copy_that_is_still_right_is_304(self, http, clip, etag, method):
        answer = http.request(
            method, clip.url, headers={"If-None-Match": etag.replace("this", f'"{clip.sha256}"')}
        )

        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == f'"{clip.sha256}"'
        assert "cache-control" in answer.headers


class TestExpiry:
    def test_a_range_after_expiry_is_403_and_a_fresh_link_goes_on_byte_for_byte(self, rig, http):
        job, clip = make_clip(rig, http)
        whole = http.get(clip.url).content
        first = http.get(clip.url, headers={"Range": "bytes=0-999"}).content
        rig.clock.ahead += timedelta(seconds=901)

        late = http.get(clip.url, headers={"Range": "bytes=1000-", "If-Range": f'"{clip.sha256}"'})
        assert code_of(late) == (403, "url_expired")
        assert "GET /jobs/" in late.json()["detail"]

        _, fresh = read(http, job.job_id)
        rest = http.get(fresh.url, headers={"Range": "bytes=1000-", "If-Range": f'"{clip.sha256}"'})
        assert rest.status_code == 206
        assert first + rest.content == whole


BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


class TestDeadLinksInABrowser(SharedServer):
    """A person who opens a link that has died reads words; a program still gets the problem."""

    @pytest.mark.parametrize(
        ("changes", "status", "words"),
        [
            ({"signature": None}, 403, "This link is not complete"),
            ({"signature": "A" * 43}, 403, "This link is not complete"),
            ({"dl": "2"}, 400, "This link is not complete"),
        ],
    )
    def test_an_altered_link_is_a_page(self, http, clip, changes, status, words):
        answer = http.get(changed(clip.url, **changes), headers=BROWSER)

        assert (answer.status_code, answer.headers["content-type"]) == (status, "text/html; charset=utf-8")
        assert f"<h1>{words}</h1>" in answer.text
        assert "$" not in answer.text
        assert "script" not in answer.text
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["vary"] == "Accept"

    def test_a_program_a_player_and_a_poster_get_the_problem(self, http, clip):
        for accept in ("*/*", "video/webm,video/ogg,video/*;q=0.9,*/*;q=0.5", "application/json, text/html"):
            answer = http.get(changed(clip.url, signature=None), headers={"Accept": accept})
            assert code_of(answer) == (403, "url_invalid")
        answer = http.get(changed(clip.poster_url, signature=None), headers=BROWSER)
        assert code_of(answer) == (403, "url_invalid")


class TestExpiredInABrowser:
    def test_expired_then_gone_each_in_its_words(self, rig, http):
        job, clip = make_clip(rig, http)
        rig.clock.ahead += timedelta(seconds=901)
        expired = http.get(clip.url, headers=BROWSER)
        assert (expired.status_code, "This link has expired" in expired.text) == (403, True)

        _, fresh = read(http, job.job_id)
        assert http.delete(f"/v1/videos/{job.job_id}").is_success
        gone = http.get(fresh.url, headers=BROWSER)
        assert (gone.status_code, "This clip is gone" in gone.text) == (410, True)


class TestRefusals(SharedServer):
    @pytest.mark.parametrize(
        ("changes", "refusal"),
        [
            ({"signature": None}, (403, "url_invalid")),
            ({"signature": "A" * 43}, (403, "url_invalid")),
            ({"signature": "A" * 44}, (400, "url_malformed")),
            ({"expires": None}, (403, "url_invalid")),
            ({"expires": "99999999999"}, (403, "url_invalid")),
            ({"expires": "١٧٩٥٤٦٤٩٠٠"}, (400, "url_malformed")),
            ({"dl": "2"}, (400, "url_malformed")),
        ],
    )
    def test_an_altered_link(self, http, clip, changes, refusal):
        assert code_of(http.get(changed(clip.url, **changes))) == refusal

    def test_a_parameter_twice(self, http, clip):
        again = urlsplit(clip.url).query.split("&")[0]

        assert code_of(http.get(f"{clip.url}&{again}")) == (400, "url_malformed")

    def test_unsigned_callers_learn_nothing_of_ids(self, rig, http, clip):
        def refusal(clip_id: str, query: str) -> tuple[int, str, str]:
            answer = http.get(f"/outputs/{clip_id}?{query}")
            return *code_of(answer), answer.json()["detail"]

        for query in ("", "expires=1795464900", f"expires=1795464900&signature={'A' * 43}"):
            assert refusal(clip.clip_id, query) == refusal("c_" + "0" * 32, query)

    @pytest.mark.parametrize(
        "path",
        [
            "c_" + "A" * 32,
            "c_" + "0" * 31,
            "x",
            "..%2f..%2fetc%2fpasswd",
            "%2e%2e",
            "c_" + "0" * 32 + "%0a",
            "%00",
        ],
    )
    def test_no_path_reaches_beyond_the_folder(self, http, path):
        answer = http.get(f"/outputs/{path}?expires=1795464900&signature={'A' * 43}")

        assert answer.status_code in (400, 404)
        assert answer.headers["content-type"] == "application/problem+json"

    def test_traversal_that_a_client_would_tidy_up(self, http):
        with socket.create_connection((http.base_url.host, http.base_url.port or 80)) as raw:
            raw.sendall(b"GET /outputs/../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: raw.recv(65536), b""))

        assert answer.startswith(b"HTTP/1.1 404")


def lose_files(rig: ServerRig) -> None:
    for path in (rig.folder / "clips").iterdir():
        path.unlink()


class TestLoss:
    def test_a_swept_clip_is_gone_for_those_who_hold_a_link_only(self, rig, http, clip):
        lose_files(rig)

        assert code_of(http.get(clip.url)) == (410, "clip_gone")
        assert code_of(http.get(changed(clip.url, signature="A" * 43))) == (403, "url_invalid")

    def test_a_job_whose_clip_was_swept_shows_no_clip(self, rig, http):
        job, _ = make_clip(rig, http, seed=2)
        lose_files(rig)

        after = Job.model_validate(http.get(f"/jobs/{job.job_id}").json())

        assert (after.state, after.clip) == ("succeeded", None)

    @pytest.mark.parametrize("lose", [Path.unlink, lambda mp4: mp4.write_bytes(b"half")])
    def test_a_clip_lost_between_the_check_and_the_answer_is_gone_too(self, tmp_path, lose):
        class LosingClips(FolderClips):
            async def open(self, clip: StoredClip, asset: Asset) -> ClipFile | None:
                file = await super().open(clip, asset)
                lose(file.path)
                return file

        rig = ServerRig(tmp_path, clips=LosingClips)
        with rig.serve() as http:
            _, clip = make_clip(rig, http)
            assert code_of(http.get(clip.url)) == (410, "clip_gone")

    def test_a_truncated_file_is_never_served(self, rig, http, clip):
        (mp4,) = (rig.folder / "clips").glob("*.mp4")
        mp4.write_bytes(mp4.read_bytes()[:-1])

        assert code_of(http.get(clip.url)) == (410, "clip_gone")


class TestUnderWay:
    def test_a_republish_during_a_slow_download_does_not_break_it(self, rig, http):
        job, clip = make_clip(rig, http)
        whole = http.get(clip.url).content
        with http.stream("GET", clip.url) as slow:
            chunks = slow.iter_bytes(1000)
            got = next(chunks)
            record = rig.record(job.job_id)
            rig.publish(record)
            rig.clips.remove_orphans()
            got += b"".join(chunks)

        assert got == whole


@pytest.fixture
def captured_logs() -> Iterator[io.StringIO]:
    """All that this process logs, as a deployment would write it."""
    root, written, config = logging.getLogger(), io.StringIO(), structlog.get_config()
    handlers, level = root.handlers[:], root.level
    with contextlib.redirect_stderr(written):
        configure_logging(Settings(log_format="json"), component="server")
        yield written
    root.handlers[:], root.level = handlers, level
    structlog.configure(**config)


class TestLogs:
    def test_no_line_holds_a_signature(self, captured_logs, tmp_path):
        class FailingPosters(FolderClips):
            async def open(self, clip: StoredClip, asset: Asset) -> ClipFile | None:
                if asset is Asset.POSTER:
                    raise ZeroDivisionError
                return await super().open(clip, asset)

        rig = ServerRig(tmp_path, clips=FailingPosters)
        with rig.serve() as http:
            _, clip = make_clip(rig, http)
            for url in (clip.url, changed(clip.url, expires="1"), changed(clip.url, dl="1")):
                http.get(url, headers={"Range": "bytes=0-9"})
            assert http.get(clip.poster_url).status_code == 500  # with a traceback in the log

        text = captured_logs.getvalue()
        assert "Traceback" in text
        assert "signature=" not in text
        for url in (clip.url, clip.poster_url):
            assert dict(parse_qsl(urlsplit(url).query))["signature"] not in text

    def test_one_line_per_request_has_what_was_served(self, captured_logs, rig, http):
        _, clip = make_clip(rig, http)
        http.get(clip.url, headers={"Range": "bytes=0-9", "X-Request-ID": "obs.1"})

        def logged() -> list[dict[str, object]]:
            lines = [json.loads(line) for line in captured_logs.getvalue().splitlines()]
            return [line for line in lines if line.get("request_id") == "obs.1"]

        (line,) = until(logged)  # the line follows the answer
        assert {
            "event": "request.answered", "method": "GET", "route": "/outputs/{clip_id}", "status": 206,
            "bytes_sent": 10, "range": "bytes=0-9", "clip_id": clip.clip_id,
        }.items() <= line.items()  # fmt: skip
        assert 0 < line["expires_in_s"] <= 900
        assert line["duration_s"] >= 0

    def test_the_prompt_is_in_no_line(self, captured_logs, http):
        http.post("/generate", json={"prompt": "my very secret prompt"}, headers={"Prefer": "respond-async"})
        http.post("/generate", json={"prompt": "my very secret prompt", "seed": -1})

        assert "request.answered" in captured_logs.getvalue()
        assert "secret" not in captured_logs.getvalue()
