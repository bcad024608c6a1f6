"""Web functions: HTTP through the client's real ASGI bridge."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import modal
import pytest
from control_plane import ControlPlane

SAMPLES = Path(__file__).parent / "samples"
pytestmark = pytest.mark.usefixtures("private_root")


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    with ControlPlane() as plane:
        plane.secrets.create("sample-keys", {"SIGNING_KEY": "s3cret"})
        plane.deploy("-m", "sample_studio.app", cwd=SAMPLES)
        yield plane


@pytest.fixture
def http(plane: ControlPlane) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=plane.app("sample-studio").function("web").web_url, timeout=240) as http:
        yield http


def test_request_and_response_arrive_whole(http: httpx.Client):
    answer = http.post("/echo?a=1&b=%20", content=b"x" * 5_000_000, headers={"X-Test": "yes"})
    assert answer.json() == {"size": 5_000_000, "query": "a=1&b=%20", "header": "yes", "state": "yes"}
    assert http.get("/nowhere").status_code == 404


def test_a_job_goes_from_web_to_class_to_volume_to_web(plane: ControlPlane, http: httpx.Client):
    started = http.post("/clips/web.mp4").json()
    assert started["base"] == str(http.base_url).rstrip("/")
    plane.wait_until(lambda: "done" in http.get(f"/calls/{started['call']}").json(), "the job to finish")
    clip = http.get("/clips/web.mp4")
    assert clip.content == b"whole" and clip.headers["content-type"] == "video/mp4"


def test_events_stream(http: httpx.Client):
    with http.stream("GET", "/stream") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert "".join(answer.iter_text()) == "data: 0\n\ndata: 1\n\ndata: 2\n\n"


def test_concurrent_requests_share_a_container_and_lifespan_ends_with_it(
    plane: ControlPlane, http: httpx.Client
):
    http.get("/nowhere")
    web = plane.app("sample-studio").function("web")
    assert len(web.containers) == 1
    assert plane.stop_container(web.containers[0]) == 0
    with plane.client():
        assert modal.Dict.from_name("records")["lifespan"] == "down"


def test_a_response_that_begins_too_late_becomes_a_redirect(plane: ControlPlane, http: httpx.Client):
    plane.settings.web_timeout_s = 0.3
    try:
        assert http.get("/wait").status_code == 303
        location = http.get("/wait").headers["location"]
        assert http.get(location).status_code == 303, "the result is not there yet either"
        # From here on without a limit: a client gives up after 20 redirects, sooner than a slow container begins.
        plane.settings.web_timeout_s = 150.0
        with plane.client():
            modal.Dict.from_name("records", create_if_missing=True)["answer"] = True
        assert http.get(location).json() == "answered"
    finally:
        plane.settings.web_timeout_s = 150.0
