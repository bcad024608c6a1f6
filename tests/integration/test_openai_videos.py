"""`/v1/videos` with the real `openai` package over a real socket."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from anime_studio.core.recipes import DEMO, FASTWAN_3STEP, TINY_RANDOM, Recipe
from support.server_rig import ServerRig, until

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API is scheduled:DeprecationWarning")

UNKNOWN = "j_" + "0" * 32


@pytest.fixture
def videos(http: httpx.Client) -> Iterator[openai.resources.Videos]:
    with openai.OpenAI(base_url=str(http.base_url.join("/v1")), api_key="unused", max_retries=0) as client:
        yield client.videos


def test_create_and_poll_waits_for_the_clip_and_downloads_its_very_bytes(rig: ServerRig, videos) -> None:
    with rig.worker():
        video = videos.create_and_poll(
            prompt="a cat on a roof", seconds="2", size="832x480", extra_body={"seed": 7}
        )
    assert (video.status, video.progress, video.object) == ("completed", 100, "video")
    assert (video.seconds, video.size, video.model) == ("2", "832x480", "tiny-random")
    assert video.completed_at is not None and video.completed_at >= video.created_at
    mp4 = videos.download_content(video.id).read()
    assert mp4 == next(iter((rig.folder / "clips").glob("*.mp4"))).read_bytes()
    poster = videos.download_content(video.id, variant="thumbnail").read()
    assert poster[:3] == b"\xff\xd8\xff"


def test_fields_that_openai_lacks_reach_the_job(http: httpx.Client, videos) -> None:
    video = videos.create(prompt="a cat", extra_body={"seed": 7, "num_inference_steps": 5})
    job = http.get(f"/jobs/{video.id}").json()
    assert (job["request"]["seed"], job["request"]["num_inference_steps"]) == (7, 5)
    assert video.status == "queued"


def test_json_makes_the_same_job_as_a_form(http: httpx.Client) -> None:
    answer = http.post("/v1/videos", json={"prompt": "a cat", "seconds": "1.5", "seed": 3})
    assert answer.status_code == 200
    spec = http.get(f"/jobs/{answer.json()['id']}").json()["request"]
    assert (spec["duration"], spec["seed"], spec["num_frames"]) == (1.5, 3, 25)


def test_an_idempotency_key_answers_with_the_same_video(http: httpx.Client) -> None:
    sent = [
        http.post("/v1/videos", json={"prompt": "a cat"}, headers={"Idempotency-Key": "night-1"}).json()
        for _ in range(2)
    ]
    assert sent[0]["id"] == sent[1]["id"]


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"size": "720x1280"}, "size", "832x480"),
        ({"model": "sora-2"}, "model", "tiny-random"),
        ({"seconds": "12"}, "seconds", "of OpenAI's values: 4"),
        ({"seconds": "30"}, "seconds", "at most 5.0625 s"),
        ({"seconds": "twelve"}, "seconds", "pattern"),
        ({"extra_body": {"seed": "-1"}}, "seed", "greater than or equal"),
        ({"extra_body": {"colour": "red"}}, "colour", "not permitted"),
        ({"input_reference": b"png"}, "input_reference", "text alone"),
    ],
)
def test_what_cannot_be_rendered_is_refused_with_the_field_and_the_remedy(
    videos, fields, param, words
) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        videos.create(prompt="a cat", **fields)
    body = refusal.value.body
    assert (body["type"], body["param"]) == ("invalid_request_error", param)
    assert words in body["message"]


def test_a_missing_prompt_and_a_broken_body_come_in_the_envelope(http: httpx.Client) -> None:
    missing = http.post("/v1/videos", json={})
    broken = http.post("/v1/videos", content=b"{", headers={"Content-Type": "application/json"})
    wrong = http.post("/v1/videos", content=b"a cat", headers={"Content-Type": "text/plain"})
    assert [answer.status_code for answer in (missing, broken, wrong)] == [400, 400, 415]
    assert missing.json()["error"]["param"] == "prompt"
    assert all(set(answer.json()) == {"error"} for answer in (missing, broken, wrong))


def test_a_failed_job_is_a_failed_video_with_our_code(rig: ServerRig, videos) -> None:
    video = videos.create(prompt="a cat")
    rig.fail_next()
    video = videos.poll(video.id)
    assert (video.status, video.error.code) == ("failed", "frames_invalid")


def test_content_before_the_end_is_refused(videos) -> None:
    video = videos.create(prompt="a cat")
    with pytest.raises(openai.BadRequestError, match="queued; it has no content yet"):
        videos.download_content(video.id)


def test_a_full_queue_is_a_rate_limit(rig: ServerRig, videos) -> None:
    for _ in range(rig.policy.max_queued_jobs):
        videos.create(prompt="a cat")
    with pytest.raises(openai.RateLimitError) as refusal:
        videos.create(prompt="a cat")
    assert refusal.value.body["code"] == "queue_full"
    assert int(refusal.value.response.headers["retry-after"]) >= 1


def test_the_list_holds_the_ids_that_the_caller_names_and_nothing_else(videos) -> None:
    mine = [videos.create(prompt=f"cat {number}") for number in range(3)]
    assert videos.list().data == []
    named = ",".join([*(video.id for video in mine), UNKNOWN, "nonsense"])
    pages = list(videos.list(limit=2, order="asc", extra_query={"ids": named}).iter_pages())
    assert [[video.id for video in page.data] for page in pages] == [
        [mine[0].id, mine[1].id],
        [mine[2].id],
    ]
    by_header = videos.list(extra_headers={"X-Video-Ids": named})
    assert [video.id for video in by_header.data] == [video.id for video in reversed(mine)]


def test_a_deleted_video_is_gone_and_so_are_its_bytes(rig: ServerRig, http: httpx.Client, videos) -> None:
    video = videos.create(prompt="a cat")
    rig.render_next()
    assert videos.delete(video.id).deleted is True
    assert list((rig.folder / "clips").iterdir()) == []
    for read in (videos.retrieve, videos.download_content, videos.delete):
        with pytest.raises(openai.NotFoundError):
            read(video.id)
    assert http.get(f"/jobs/{video.id}").json()["cost"]["usd"] > 0  # the receipt stays


def test_deleting_a_waiting_video_stops_it(rig: ServerRig, videos) -> None:
    video = videos.create(prompt="a cat")
    assert videos.delete(video.id).deleted is True
    stopped = videos.retrieve(video.id)
    assert (stopped.status, stopped.error.code) == ("failed", "job_cancelled")


def test_ranges_are_honoured(rig: ServerRig, http: httpx.Client, videos) -> None:
    video = videos.create(prompt="a cat")
    rig.render_next()
    until(lambda: videos.retrieve(video.id).status == "completed")
    part = http.get(f"/v1/videos/{video.id}/content", headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, b"ftyp")


def test_a_page_of_another_site_cannot_spend_the_gpu(http: httpx.Client) -> None:
    answer = http.post("/v1/videos", data={"prompt": "a cat"}, headers={"Sec-Fetch-Site": "cross-site"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (403, "invalid_request_error")


def test_an_unknown_video_is_not_found(videos) -> None:
    for read in (videos.retrieve, videos.download_content, videos.delete):
        with pytest.raises(openai.NotFoundError) as missing:
            read(UNKNOWN)
        assert missing.value.body["code"] == "job_not_found"


@pytest.mark.parametrize("seconds", ["2", 2, 2.0])
def test_seconds_may_be_a_number(http: httpx.Client, seconds: object) -> None:
    answer = http.post("/v1/videos", json={"prompt": "a cat", "seconds": seconds})
    assert (answer.status_code, answer.json()["seconds"]) == (200, "2")


@pytest.mark.parametrize("recipe", [DEMO, FASTWAN_3STEP, TINY_RANDOM], ids=lambda recipe: recipe.name)
@pytest.mark.parametrize("seconds", ["0", "0.25", "4.8125", "4.8126", "5", "5.0625", "5.0626"])
def test_seconds_are_taken_where_generate_takes_them(tmp_path: Path, recipe: Recipe, seconds: str) -> None:
    with ServerRig(tmp_path, recipe=recipe).serve() as http:
        body = {"prompt": "a cat", "duration": float(seconds)}
        generated = http.post("/generate", json=body, headers={"Prefer": "respond-async"})
        video = http.post("/v1/videos", json={"prompt": "a cat", "seconds": seconds})
    assert (generated.status_code, video.status_code) in ((202, 200), (422, 400)), video.text
    if video.status_code == 200:
        assert video.json()["seconds"] == f"{float(seconds):g}"
    else:
        assert "at most 5.0625 s" in video.json()["error"]["message"]


@pytest.mark.parametrize("seconds", [True, [2], "2s"])
def test_seconds_is_nothing_else(http: httpx.Client, seconds: object) -> None:
    answer = http.post("/v1/videos", json={"prompt": "a cat", "seconds": seconds})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "seconds")


@pytest.mark.parametrize(("seconds", "made"), [("4", "4"), ("8", "5.0625"), ("12", "5.0625")])
def test_openais_own_lengths_become_the_nearest_where_the_operator_allows_it(
    tmp_path: Path, seconds: str, made: str
) -> None:
    with ServerRig(tmp_path, round_seconds=True).serve() as http:
        answer = http.post("/v1/videos", json={"prompt": "a cat", "seconds": seconds})
        refused = http.post("/v1/videos", json={"prompt": "a cat", "seconds": "9"})
    assert (answer.status_code, answer.json()["seconds"]) == (200, made)
    assert refused.status_code == 400


def test_the_models_are_the_recipe(http: httpx.Client) -> None:
    with openai.OpenAI(base_url=str(http.base_url.join("/v1")), api_key="unused", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["tiny-random"]


@pytest.mark.parametrize(
    ("method", "path", "sent", "status"),
    [
        (
            "POST",
            "/v1/videos",
            {"data": b"--x\r\nno", "headers": {"Content-Type": "multipart/form-data"}},
            400,
        ),
        (
            "POST",
            "/v1/videos",
            {"data": b"junk", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
            400,
        ),
        ("POST", "/v1/videos", {"files": [("a", b"1"), ("b", b"2")]}, 400),
        ("POST", "/v1/videos", {"json": {"prompt": "x" * 70_000}}, 413),
        ("PUT", "/v1/videos", {}, 405),
        ("DELETE", "/v1/models", {}, 405),
        ("GET", "/v1/nothing", {}, 404),
        ("GET", "/v1/videos/" + UNKNOWN + "/nothing", {}, 404),
    ],
)
def test_every_error_below_v1_comes_in_the_envelope(http: httpx.Client, method, path, sent, status) -> None:
    if "data" in sent:
        sent = {"content": sent["data"], "headers": sent["headers"]}
    answer = http.request(method, path, **sent)
    assert (answer.status_code, set(answer.json())) == (status, {"error"}), answer.text
    assert ("allow" in answer.headers) == (status == 405)


def test_head_is_answered_below_v1(rig: ServerRig, http: httpx.Client, videos) -> None:
    video = videos.create(prompt="a cat")
    rig.render_next()
    head = http.head(f"/v1/videos/{video.id}/content")
    assert (head.status_code, head.headers["content-type"]) == (200, "video/mp4")
    assert int(head.headers["content-length"]) > 1000
    assert http.head("/v1/videos").status_code == 200
    assert http.head("/v1/nothing").status_code == 404
