"""`/watch` over a real socket: the page that shows a clip, its tags, and the media links that it leads to."""

from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from anime_studio.core.signing import UrlSigner
from common.schemas import Clip, Job
from support.clips import render
from support.server_rig import KEY, ServerRig
from support.shared_server import SharedServer

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
HOSTILE = (
    '"><script>alert(1)</script><img src=x onerror=alert(2)> & \u202egnp.exe\u2066 ${video} $$ \u05e9\u05dc\u05d5\u05dd '
    + "👩\u200d🚀" * 400
)


class Page(HTMLParser):
    """What a chat program reads: tags by name, and the attributes and text of elements."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.meta: dict[str, str] = {}
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {}
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.elements.append((tag, found))
        if tag == "meta" and (name := found.get("property") or found.get("name")):
            assert name not in self.meta, name
            self.meta[name] = found["content"] or ""
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open:
            self.text[self._open[-1]] = self.text.get(self._open[-1], "") + data

    def first(self, tag: str) -> dict[str, str | None]:
        return next(attributes for name, attributes in self.elements if name == tag)


def drawn(rig: ServerRig, http: httpx.Client, **changes: object) -> tuple[Job, Clip]:
    body = {"prompt": "a fox", "requested_by": "mio", "seed": 1} | changes
    answer = http.post("/generate", json=body, headers={"Prefer": "respond-async"})
    assert answer.is_success, answer.text
    rig.render_next()
    return read(http, answer.json()["job_id"])


def read(http: httpx.Client, job_id: str) -> tuple[Job, Clip]:
    job = Job.model_validate(http.get(f"/jobs/{job_id}").json())
    assert job.clip is not None and job.clip.watch_url is not None
    return job, job.clip


def video_of(clip: Clip) -> str:
    return (clip.watch_url or "").replace("?", "/video?")


def poster_of(clip: Clip) -> str:
    return (clip.watch_url or "").replace("?", "/poster?")


class TestThePage(SharedServer):
    @pytest.fixture
    def drawn(self, rig: ServerRig, http: httpx.Client) -> tuple[Job, Clip]:
        return drawn(rig, http)

    def test_it_shows_clip_prompt_and_who_asked_and_no_job(self, http, drawn):
        job, clip = drawn
        answer = http.get(clip.watch_url)
        page = Page(answer.text)

        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert page.text["h1"] == "a fox"
        assert page.text["bdi"] == " · for mio"
        assert job.job_id not in answer.text + clip.watch_url
        assert "j_" not in answer.text

    def test_it_needs_no_script_and_may_be_framed(self, http, drawn):
        answer = http.get(drawn[1].watch_url)

        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src" not in policy and "unsafe" not in policy
        assert "frame-ancestors *" in policy
        assert "x-frame-options" not in answer.headers
        assert not {"script", "style", "form"} & {tag for tag, _ in Page(answer.text).elements}
        assert http.get("/").headers["x-frame-options"] == "DENY"

    def test_its_tags_say_what_chat_programs_ask(self, http, drawn):
        _, clip = drawn
        meta = Page(http.get(clip.watch_url).text).meta
        size = {"width": str(clip.width), "height": str(clip.height)}

        assert (meta["og:type"], meta["og:title"]) == ("video.other", "a fox")
        assert meta["og:url"] == meta["twitter:player"] == clip.watch_url
        assert meta["og:image"] == meta["twitter:image"] == poster_of(clip)
        assert meta["og:video"] == meta["twitter:player:stream"] == video_of(clip)
        assert (meta["og:image:type"], meta["og:video:type"]) == ("image/jpeg", "video/mp4")
        assert (meta["twitter:card"], meta["twitter:player:stream:content_type"]) == ("player", "video/mp4")
        for name in ("og:image", "og:video", "twitter:player"):
            assert {side: meta[f"{name}:{side}"] for side in size} == size
        assert meta["og:description"].endswith("s · for mio")
        assert meta["robots"] == "noindex"
        assert "og:video:secure_url" not in meta, "this server speaks plain HTTP"

    def test_each_address_on_it_opens(self, http, drawn):
        _, clip = drawn
        page = Page(http.get(clip.watch_url).text)
        links = [page.first("video")["src"], page.first("video")["poster"]]
        links += [a["href"] for tag, a in page.elements if tag in ("a", "link")]
        types = [
            http.get(httpx.URL(clip.watch_url).join(link), follow_redirects=True).headers["content-type"]
            for link in links
        ]
        assert types[:2] == ["video/mp4", "image/jpeg"]
        assert sorted(types[2:]) == [
            "image/svg+xml",
            "text/css; charset=utf-8",
            "text/css; charset=utf-8",
            "text/html; charset=utf-8",
            "video/mp4",
        ]

    def test_the_download_is_a_file(self, http, drawn):
        _, clip = drawn
        saved = http.get(video_of(clip) + "&dl=1", follow_redirects=True)

        assert saved.headers["content-disposition"] == f'attachment; filename="{clip.clip_id}.mp4"'
        assert len(saved.content) == clip.size_bytes

    def test_each_file_is_reached_by_a_media_link_of_the_moment(self, http, drawn):
        for link in (video_of(drawn[1]), poster_of(drawn[1])):
            lead = http.get(link)
            assert (lead.status_code, lead.headers["cache-control"]) == (302, "no-store")
            assert lead.headers["location"].startswith("../../outputs/c_")
            assert lead.content == b""

    def test_head_has_the_headers_of_get(self, http, drawn):
        for link in (drawn[1].watch_url, video_of(drawn[1]), poster_of(drawn[1])):
            get, head = http.get(link), http.head(link)
            assert (head.status_code, head.content) == (get.status_code, b"")
            assert head.headers.get("content-type") == get.headers.get("content-type")

    @pytest.mark.parametrize("accept", ["*/*", "application/json"])
    @pytest.mark.parametrize(
        ("old", "new", "status", "code"),
        [
            ("expires=", "expired=", 403, "url_invalid"),
            ("signature=", "signature=A", 400, "url_malformed"),
            ("expires=1", "expires=2", 403, "url_invalid"),
        ],
    )
    def test_an_altered_link_opens_nothing(self, http, drawn, old, new, status, code, accept):
        for link in (drawn[1].watch_url, video_of(drawn[1]), poster_of(drawn[1])):
            altered = link.replace(old, new)
            assert altered != link
            answer = http.get(altered, headers={"Accept": accept})
            assert (answer.status_code, answer.json()["code"]) == (status, code)
            person = http.get(altered, headers=BROWSER)
            assert (person.status_code, "This link is not complete" in person.text) == (status, True)

    def test_words_of_a_dead_link_have_their_style_from_any_depth(self, http, drawn):
        for link in (drawn[1].watch_url, video_of(drawn[1])):
            page = http.get(link.replace("signature=", "s="), headers=BROWSER)
            sheets = [a["href"] for tag, a in Page(page.text).elements if tag == "link"]
            assert all(http.get(httpx.URL(link).join(sheet)).status_code == 200 for sheet in sheets)

    def test_a_media_link_is_no_watch_link_nor_the_other_way_round(self, http, drawn):
        _, clip = drawn
        media, watch = urlsplit(clip.url).query, urlsplit(clip.watch_url).query
        for path in (f"/watch/{clip.clip_id}?{media}", f"/watch/{clip.clip_id}/video?{media}"):
            assert http.get(path).json()["code"] == "url_invalid"
        for path in (f"/outputs/{clip.clip_id}?{watch}", f"/outputs/{clip.clip_id}/poster?{watch}"):
            assert http.get(path).json()["code"] == "url_invalid"

    def test_unsigned_callers_learn_nothing_of_ids(self, http, drawn):
        query = f"expires=1795464900&signature={'A' * 43}"
        answers = [http.get(f"/watch/{clip_id}?{query}") for clip_id in (drawn[1].clip_id, "c_" + "0" * 32)]

        assert answers[0].json()["detail"] == answers[1].json()["detail"]

    def test_strangers_words_are_text_and_nothing_else(self, rig, http):
        _, clip = drawn(rig, http, prompt=HOSTILE, requested_by='<b onclick="x">&\u05d0')
        answer = http.get(clip.watch_url)
        page = Page(answer.text)

        assert {tag for tag, _ in page.elements} <= {
            *("html", "head", "meta", "title", "link", "body", "main", "video", "h1", "p", "bdi", "nav", "a")
        }
        assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
        title = page.text["h1"]
        assert page.meta["og:title"] == page.meta["twitter:title"] == title
        assert title.startswith('"><script>alert(1)</script>') and title.endswith("…")
        assert len(title) <= 80 and not {"\u202e", "\u2066"} & set(title)
        assert HOSTILE.replace("\u202e", "").replace("\u2066", "") in page.text["p"]
        assert page.meta["og:description"].endswith(' · for <b onclick="x">&\u05d0')


class TestItsLife:
    def test_the_link_is_the_same_on_each_read_and_outlives_media_links(self, rig, http):
        job, clip = drawn(rig, http)
        rig.clock.ahead += timedelta(hours=23, minutes=50)
        _, later = read(http, job.job_id)

        assert (later.watch_url, later.url != clip.url) == (clip.watch_url, True)
        assert http.get(clip.url).status_code == 403
        assert http.get(clip.watch_url).status_code == 200
        assert http.get(video_of(clip), follow_redirects=True).headers["content-type"] == "video/mp4"

    def test_it_ends_when_the_clip_does_in_words_and_as_a_problem(self, rig, http):
        _, clip = drawn(rig, http)
        rig.clock.ahead += timedelta(hours=24, seconds=1)

        for link in (clip.watch_url, video_of(clip)):
            page = http.get(link, headers=BROWSER)
            assert (page.status_code, "It worked for as long as the clip was kept" in page.text) == (
                403,
                True,
            )
            assert http.get(link).json()["code"] == "url_expired"

    def test_the_deployments_clip_ttl_is_its_life(self, rig):
        rig.policy = type(rig.policy)(clip_ttl=timedelta(days=30))
        with rig.serve() as http:
            _, clip = drawn(rig, http)
            rig.clock.ahead += timedelta(days=29)
            assert http.get(clip.watch_url).status_code == 200
            rig.clock.ahead += timedelta(days=2)
            assert http.get(clip.watch_url).status_code == 403

    def test_a_deleted_clip_is_gone(self, rig, http):
        job, clip = drawn(rig, http)
        assert http.delete(f"/v1/videos/{job.job_id}").is_success

        page = http.get(clip.watch_url, headers=BROWSER)
        assert (page.status_code, "This clip is gone" in page.text) == (410, True)
        assert http.get(video_of(clip)).json()["code"] == "clip_gone"

    def test_a_damaged_clip_is_gone(self, rig, http):
        _, clip = drawn(rig, http)
        (file,) = (rig.folder / "clips").glob("*.mp4")
        file.write_bytes(b"x" * file.stat().st_size)

        assert http.get(clip.watch_url).json()["code"] == "clip_gone"

    @pytest.mark.parametrize("kept_off", ["hidden by the operator", "held for a moderator"])
    def test_a_clip_that_is_not_shown_is_not_called_gone_and_the_same_link_opens_later(
        self, rig, http, kept_off
    ):
        held = kept_off.startswith("held")
        _, clip = drawn(rig, http, channel="show-0123456789abcdef", hold=held)
        if not held:
            http.post("/operator", json={"action": "hide", "clip_id": clip.clip_id}).raise_for_status()
        for link in (clip.watch_url, video_of(clip), poster_of(clip)):
            refused = http.get(link)
            assert (refused.status_code, refused.json()["code"]) == (403, "clip_hidden")
            page = http.get(link, headers=BROWSER)
            assert (page.status_code, Page(page.text).text["h1"]) == (403, "This clip is not shown now")
            assert "gone" not in page.text
            assert "same link opens it" in page.text
        http.post("/operator", json={"action": "show", "clip_id": clip.clip_id}).raise_for_status()
        assert http.get(clip.watch_url, headers=BROWSER).status_code == 200

    def test_a_clip_that_outlives_its_record_is_shown_without_words(self, rig, http):
        _, clip = drawn(rig, http)
        unknown = "c_" + "5" * 32
        rig.clips.publish(unknown, render(rig.folder / "scratch", seed=1))
        link = UrlSigner([KEY]).sign_watch(unknown, rig.clock.now() + timedelta(hours=1)).path()

        assert Page(http.get(link).text).text["h1"] == "An anime clip"
        assert Page(http.get(clip.watch_url).text).text["h1"] == "a fox"

    def test_a_restart_with_a_new_signing_key_beside_the_old_one_keeps_links(self, rig, http):
        _, clip = drawn(rig, http)
        rig.studio._signer = UrlSigner([KEY, "new-" + "n" * 32])  # as after a deploy with one more key

        page = Page(http.get(clip.watch_url).text)
        assert page.meta["og:url"] == clip.watch_url
        assert http.get(video_of(clip), follow_redirects=True).status_code == 200


def test_where_words_are_off_the_page_shows_the_clip_alone(tmp_path: Path) -> None:
    rig = ServerRig(tmp_path, watch_words=False)
    with rig.serve() as http:
        _, clip = drawn(rig, http, prompt="a secret fox")
        answer = http.get(clip.watch_url or "")

    assert answer.status_code == 200
    assert "secret" not in answer.text and "mio" not in answer.text
    assert Page(answer.text).meta["og:title"] == "An anime clip"


def test_behind_a_proxy_the_tags_are_absolute_and_the_page_relative(tmp_path: Path) -> None:
    rig = ServerRig(tmp_path, base_url="https://show.example/studio/")
    with rig.serve() as http:
        _, clip = drawn(rig, http)
        assert (clip.watch_url or "").startswith("https://show.example/studio/watch/c_")
        page = Page(http.get((clip.watch_url or "").replace("https://show.example/studio", "")).text)

    assert page.meta["og:video:secure_url"] == page.meta["og:video"] == video_of(clip)
    assert page.meta["twitter:player"] == clip.watch_url
    addresses = [a.get("href") or a.get("src") for tag, a in page.elements if tag in ("link", "a", "video")]
    assert all(address and not address.startswith(("/", "http")) for address in addresses)


def test_pages_and_refusals_are_counted_like_outputs(rig: ServerRig, http: httpx.Client) -> None:
    _, clip = drawn(rig, http)
    http.get(clip.watch_url or "")
    http.get((clip.watch_url or "").split("?")[0])
    http.get(video_of(clip), follow_redirects=True)
    rig.clock.ahead += timedelta(days=2)
    http.get(clip.watch_url or "")
    seen = http.get("/metrics").text

    for result in ("page", "url_invalid", "whole", "url_expired"):
        assert f'anime_output_requests_total{{result="{result}"}} 1.0' in seen
