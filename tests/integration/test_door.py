"""Who gets in and what comes out, over a real socket: hosts, origins, HEAD, slashes, links from chat, deep JSON."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from anime_studio.settings import Settings
from support.server_rig import ServerRig
from support.shared_server import SharedServer

AT_ONCE = {"Prefer": "respond-async"}
DEEP = b'{"prompt":' + b"[" * 30_000 + b"]" * 30_000 + b"}"


def settings(**changed: object) -> Settings:
    return Settings(**{"host": "127.0.0.1", "base_url": None, "allowed_hosts": ""} | changed)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerRig, httpx.Client]]:
    """One server with the laptop's check of `Host`."""
    options = settings(base_url="https://studio.example", allowed_hosts="studio.lan, den")
    rig = ServerRig(tmp_path_factory.mktemp("door"), allowed_hosts=options.web_options().allowed_hosts)
    with rig.serve() as http:
        yield rig, http


class TestHost(SharedServer):
    @pytest.mark.parametrize(
        "host", ["evil.example", "evil.example:8017", "localhost.evil.example", "[", "@"]
    )
    def test_the_name_of_another_site_is_refused(self, http, host):
        answer = http.get("/health", headers={"Host": host})

        assert (answer.status_code, answer.json()["code"]) == (421, "misdirected_request")
        assert answer.json()["request_id"] == answer.headers["x-request-id"]

    @pytest.mark.parametrize(
        "host",
        ["127.0.0.1:1", "[::1]:8017", "localhost", "LOCALHOST:8017", "studio.localhost", "192.168.1.7:8017"],
    )
    def test_addresses_and_loopback_names_are_served(self, http, host):
        assert http.get("/health", headers={"Host": host}).status_code == 200

    @pytest.mark.parametrize("host", ["studio.example", "studio.lan:8017", "den."])
    def test_the_base_url_and_the_setting_add_names(self, http, host):
        assert http.get("/health", headers={"Host": host}).status_code == 200

    def test_a_refusal_under_v1_speaks_openais_envelope(self, http):
        answer = http.get("/v1/videos", headers={"Host": "evil.example"})

        assert (answer.status_code, answer.json()["error"]["code"]) == (421, "misdirected_request")


def test_a_star_allows_every_name(tmp_path: Path) -> None:
    options = settings(allowed_hosts="*").web_options()
    with ServerRig(tmp_path, allowed_hosts=options.allowed_hosts).serve() as http:
        assert http.get("/health", headers={"Host": "evil.example"}).status_code == 200


class TestOrigin(SharedServer):
    @pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1"])
    @pytest.mark.parametrize("path", ["/v1/videos", "/warm"])
    def test_a_form_on_another_site_spends_nothing_over_plain_http(self, rig, http, origin, path):
        """Browsers send no `Sec-Fetch-Site` to a plain-HTTP name in a LAN, but always `Origin`."""
        before = (len(rig.launcher.launched), rig.launcher.warmed)
        answer = http.post(path, data={"prompt": "a cat"}, headers={"Origin": origin})

        assert answer.status_code == 403
        assert (len(rig.launcher.launched), rig.launcher.warmed) == before

    def test_the_studios_own_page_may(self, http):
        origin = str(http.base_url).rstrip("/")
        assert http.post("/warm", headers={"Origin": origin}).status_code == 202


class TestHead(SharedServer):
    @pytest.mark.parametrize(
        "path", ["/health", "/ready", "/metrics", "/recipe", "/status", "/", "/overlay", "/openapi.json"]
    )
    def test_every_get_answers_head_with_its_headers_and_no_body(self, http, path):
        get, head = http.get(path), http.head(path)

        assert (head.status_code, head.content) == (get.status_code, b"")
        assert head.headers["content-type"] == get.headers["content-type"]

    def test_head_of_an_endless_event_stream_ends(self, http):
        job = http.post("/generate", json={"prompt": "a cat"}, headers=AT_ONCE).json()
        head = http.head(f"/jobs/{job['job_id']}/events")
        http.delete(f"/jobs/{job['job_id']}")

        assert head.status_code == 200
        assert head.headers["content-type"].startswith("text/event-stream")

    def test_a_path_without_get_refuses_head(self, http):
        answer = http.head("/generate")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")

    def test_a_connection_can_be_used_again_after_head(self, http):
        answers = [http.head("/health"), http.get("/health"), http.head("/nowhere"), http.get("/health")]
        assert [answer.status_code for answer in answers] == [200, 200, 404, 200]


class TestSlash(SharedServer):
    @pytest.mark.parametrize(
        ("path", "location"),
        [
            ("/health/", "../health"),
            ("/overlay/?channel=x", "../overlay?channel=x"),
            ("//evil.example/", None),
        ],
    )
    def test_a_slash_at_the_end_redirects_without_scheme_and_host(self, http, path, location):
        answer = http.request("GET", httpx.URL(str(http.base_url)).copy_with(raw_path=path.encode()))

        assert answer.headers.get("location", "../evil.example") == (location or "../evil.example")
        assert answer.status_code == 307

    def test_the_redirect_leads_to_the_route(self, http):
        assert http.get("/health/", follow_redirects=True).json()["status"] == "ok"


class TestDeepJson(SharedServer):
    @pytest.mark.parametrize("path", ["/generate", "/v1/videos", "/telemetry/signals"])
    def test_deeply_nested_json_is_the_callers_fault(self, http, path):
        answer = http.post(path, content=DEEP, headers={"Content-Type": "application/json"})

        assert 400 <= answer.status_code < 500, answer.text


@pytest.mark.parametrize(
    "added",
    [
        "&fbclid=IwAR0x",
        "&utm_source=chat&utm_source=again",
        ")",
        ".",
        ").",
        "%E2%80%8B",
        "%F3%A0%80%80",
        ">",
        "%20",
    ],
)
def test_what_chat_adds_to_a_link_is_ignored(rig: ServerRig, http: httpx.Client, added: str) -> None:
    job_id = http.post("/generate", json={"prompt": "a cat"}, headers=AT_ONCE).json()["job_id"]
    rig.render_next()
    url = http.get(f"/jobs/{job_id}").json()["clip"]["url"]

    assert http.get(url + added).status_code == 200
    assert http.get(url[:-1] + added).status_code == 400  # the signature still decides


def test_a_signed_key_given_twice_is_refused(rig: ServerRig, http: httpx.Client) -> None:
    job_id = http.post("/generate", json={"prompt": "a cat"}, headers=AT_ONCE).json()["job_id"]
    rig.render_next()
    url = http.get(f"/jobs/{job_id}").json()["clip"]["url"]

    assert http.get(url + "&expires=1795464900").json()["code"] == "url_malformed"


def test_the_document_of_the_contract_is_json(tmp_path: Path) -> None:
    with ServerRig(tmp_path).serve() as http:
        assert json.loads(http.get("/openapi.json").text)["openapi"].startswith("3.")
