"""The real `openai` package against a real socket: OpenAI's words, our jobs."""

from collections.abc import Iterator

import httpx
import openai
import pytest

from support.stage import Stage, until

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API is scheduled:DeprecationWarning")

UNKNOWN = "j_" + "0" * 32


@pytest.fixture
def videos(http: httpx.Client) -> Iterator[openai.resources.Videos]:
    with openai.OpenAI(base_url=str(http.base_url.join("/v1")), api_key="unused", max_retries=0) as speaker:
        yield speaker.videos


def test_create_and_poll_waits_for_the_clip_and_downloads_its_very_bytes(stage: Stage, videos) -> None:
    with stage.worker():
        video = videos.create_and_poll(
            prompt="a cat on a roof", seconds="2", size="832x480", extra_body={"seed": 7}
        )
    assert (video.status, video.progress, video.object) == ("completed", 100, "video")
    assert (video.seconds, video.size, video.model) == ("2", "832x480", "tiny-random")
    assert video.completed_at is not None and video.completed_at >= video.created_at
    mp4 = videos.download_content(video.id).read()
    assert mp4 == next(iter((stage.folder / "clips").glob("*.mp4"))).read_bytes()
    poster = videos.download_content(video.id, variant="thumbnail").read()
    assert poster[:3] == b"\xff\xd8\xff"


def test_what_openai_cannot_say_is_ours_to_say_and_reaches_the_job(http: httpx.Client, videos) -> None:
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
        ({"seconds": "12"}, None, "at most 5.0625 s"),
        ({"seconds": "twelve"}, "seconds", "pattern"),
        ({"extra_body": {"seed": "-1"}}, "seed", "greater than or equal"),
        ({"extra_body": {"colour": "red"}}, "colour", "not permitted"),
        ({"input_reference": b"png"}, "input_reference", "text alone"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_the_field_and_the_remedy(videos, fields, param, words) -> None:
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


def test_a_failed_job_is_a_failed_video_with_our_code(stage: Stage, videos) -> None:
    video = videos.create(prompt="a cat")
    stage.fail_next()
    video = videos.poll(video.id)
    assert (video.status, video.error.code) == ("failed", "frames_invalid")


def test_content_that_is_not_there_yet_is_said_so(videos) -> None:
    video = videos.create(prompt="a cat")
    with pytest.raises(openai.BadRequestError, match="queued; it has no content yet"):
        videos.download_content(video.id)


def test_a_full_queue_is_a_rate_limit(stage: Stage, videos) -> None:
    for _ in range(stage.policy.max_queued_jobs):
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


def test_a_deleted_video_is_gone_and_so_are_its_bytes(stage: Stage, http: httpx.Client, videos) -> None:
    video = videos.create(prompt="a cat")
    stage.draw_next()
    assert videos.delete(video.id).deleted is True
    assert list((stage.folder / "clips").iterdir()) == []
    for read in (videos.retrieve, videos.download_content, videos.delete):
        with pytest.raises(openai.NotFoundError):
            read(video.id)
    assert http.get(f"/jobs/{video.id}").json()["cost"]["usd"] > 0  # the receipt stays


def test_deleting_a_waiting_video_stops_it(stage: Stage, videos) -> None:
    video = videos.create(prompt="a cat")
    assert videos.delete(video.id).deleted is True
    stopped = videos.retrieve(video.id)
    assert (stopped.status, stopped.error.code) == ("failed", "job_cancelled")


def test_ranges_are_honoured(stage: Stage, http: httpx.Client, videos) -> None:
    video = videos.create(prompt="a cat")
    stage.draw_next()
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
