"""`/generate` and `/jobs` over a real socket, with the real store; the test acts as the worker."""

import json
import socket
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import httpx
import pytest

from anime_studio.core.errors import CheckpointError, WeightsMissingError, WorkerDiedError
from anime_studio.core.readiness import not_ready
from anime_studio.on_laptop.job_store import SqliteJobs
from common.schemas import Job, Problem, Readiness
from support.server_rig import PATIENCE_S, WAIT_S, ServerRig, until
from support.shared_server import SharedServer

PROMPT = {"prompt": "a fox in the rain", "seed": 7}
AT_ONCE = {"Prefer": "respond-async"}
FETCH_THEM = "the weights are missing; fetch them with: anime-studio weights fetch"


def submit(http: httpx.Client, **changes) -> Job:
    answer = http.post("/generate", json=PROMPT | changes, headers=AT_ONCE)
    assert answer.status_code == 202, answer.text
    return Job.model_validate(answer.json())


def failing(method: str, error: Exception) -> type[SqliteJobs]:
    """Return a job store of which one method fails."""

    async def fail(*_: object) -> None:
        raise error

    return type("FailingJobs", (SqliteJobs,), {method: fail})


def lose_table(rig: ServerRig, table: str) -> None:
    with sqlite3.connect(rig.database) as database:
        database.execute(f"ALTER TABLE {table} RENAME TO lost")


def problem_of(answer: httpx.Response) -> Problem:
    assert answer.headers["content-type"] == "application/problem+json"
    problem = Problem.model_validate(answer.json())
    assert problem.status == answer.status_code
    assert problem.request_id == answer.headers["x-request-id"]
    return problem


class TestGenerate:
    def test_waits_and_answers_200_with_the_finished_clip(self, rig, http):
        with rig.worker():
            answer = http.post("/generate", json=PROMPT)

        assert answer.status_code == 200
        job = Job.model_validate(answer.json())
        assert (job.state, job.request.seed, job.progress.fraction) == ("succeeded", 7, 1.0)
        assert job.clip is not None
        film = http.get(job.clip.url)
        assert film.status_code == 200
        assert len(film.content) == job.clip.size_bytes

    def test_a_failed_job_is_answered_200_with_the_error_inside(self, rig, http):
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(http.post, "/generate", json=PROMPT)
            failed = rig.fail_next()
            answer = waiting.result(PATIENCE_S)

        assert answer.status_code == 200
        job = Job.model_validate(answer.json())
        assert (job.job_id, job.state, job.clip) == (failed.job_id, "failed", None)
        assert job.error is not None
        assert job.error.code == "frames_invalid"
        assert job.error.request_id == job.request_id

    def test_answers_202_when_the_bounded_wait_is_over(self, rig, tmp_path):
        with ServerRig(tmp_path / "short", generate_wait_s=0.2).serve() as http:
            answer = http.post("/generate", json=PROMPT)

        assert answer.status_code == 202
        job = Job.model_validate(answer.json())
        assert answer.headers["location"] == job.links.self
        assert int(answer.headers["retry-after"]) >= 1
        assert (job.state, job.queue_position) == ("queued", 0)

    @pytest.mark.parametrize(
        ("prefer", "applied"),
        [
            ("respond-async", "respond-async"),
            ("wait=0", "wait=0"),
            ('foo; bar="1", respond-async', "respond-async"),
            ("respond-async, wait=0", "respond-async, wait=0"),
        ],
    )
    def test_prefer_is_honoured_and_reported(self, http, prefer, applied):
        answer = http.post("/generate", json=PROMPT, headers={"Prefer": prefer})

        assert answer.status_code == 202
        assert answer.headers["preference-applied"] == applied

    def test_the_job_is_stored_and_launched_before_it_is_acknowledged(self, rig, http):
        job = submit(http)

        assert rig.launcher.launched == [job.job_id]
        with rig.worker_store() as worker_store:
            assert rig.claim(worker_store).job_id == job.job_id

    def test_a_caller_that_disconnects_ends_the_wait_and_not_the_job(self, rig, http):
        body = json.dumps(PROMPT)
        with socket.create_connection((http.base_url.host, http.base_url.port or 80)) as caller:
            head = f"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
            caller.sendall(f"{head}\r\n\r\n{body}".encode())
            until(lambda: rig.store.feed.followers)

        until(lambda: not rig.store.feed.followers, timeout_s=WAIT_S / 2)  # before the server's own bound
        rendered = rig.render_next()
        assert http.get(f"/jobs/{rendered.job_id}").json()["state"] == "succeeded"

    def test_a_full_queue_answers_429_with_retry_after(self, rig, http):
        for _ in range(rig.policy.max_queued_jobs):
            submit(http)

        answer = http.post("/generate", json=PROMPT)

        assert answer.status_code == 429
        assert problem_of(answer).code == "queue_full"
        assert problem_of(answer).retryable
        assert int(answer.headers["retry-after"]) >= 1

    def test_a_deadline_that_cannot_be_met_is_refused_up_front(self, rig, http):
        submit(http)
        with rig.worker_store() as worker_store:
            rig.finish(worker_store, rig.claim(worker_store))  # its stages took 0.43 s

        answer = http.post("/generate", json=PROMPT | {"deadline_s": 0.4})

        assert (answer.status_code, problem_of(answer).code) == (409, "deadline_unmeetable")

    def test_what_the_recipe_cannot_render_is_refused(self, http):
        answer = http.post("/generate", json=PROMPT | {"duration": 30})

        assert (answer.status_code, problem_of(answer).code) == (422, "unsupported_by_recipe")

    def test_no_worker_to_ask_is_503(self, rig, http):
        rig.launcher.refuses = True

        answer = http.post("/generate", json=PROMPT)

        assert (answer.status_code, problem_of(answer).code) == (503, "unavailable")
        assert answer.headers["retry-after"] == "7"

    @pytest.mark.parametrize("error", [WeightsMissingError(FETCH_THEM), CheckpointError(FETCH_THEM)])
    def test_what_a_person_must_fix_is_refused_with_the_command(self, rig, http, error):
        rig.launcher.ready = not_ready(error)

        answer = http.post("/generate", json=PROMPT)

        assert (answer.status_code, problem_of(answer).code) == (503, error.code)
        assert problem_of(answer).detail == problem_of(http.get("/ready")).detail == FETCH_THEM
        assert problem_of(http.get("/ready")).code == error.code

    def test_no_answer_says_where_this_machine_stores_its_weights(self, rig, http):
        rig.launcher.ready = not_ready(CheckpointError("/home/ada/models/demo/vae/config.json is missing"))

        answers = [
            http.get("/ready"),
            http.get("/status"),
            http.post("/warm"),
            http.post("/generate", json=PROMPT),
        ]

        assert [
            ("…/vae/config.json is missing" in each.text, "ada" in each.text) for each in answers
        ] == 4 * [(True, False)]

    def test_a_job_that_was_not_launched_does_not_stay_in_the_queue(self, rig, http):
        rig.launcher.refuses = True

        http.post("/generate", json=PROMPT)

        assert http.get("/ready").json()["queued"] == 0


class TestIdempotency:
    def test_the_same_call_asks_again_for_a_worker(self, rig, http):
        key = AT_ONCE | {"Idempotency-Key": "show-1"}
        rig.launcher.refuses = True
        assert http.post("/generate", json=PROMPT, headers=key).status_code == 503
        rig.launcher.refuses = False

        job = http.post("/generate", json=PROMPT, headers=key).json()

        assert job["state"] == "queued"
        assert rig.launcher.launched == [job["job_id"]]

    def test_the_same_key_and_body_answer_with_the_same_job(self, rig, http):
        key = AT_ONCE | {"Idempotency-Key": "show-1"}
        first = http.post("/generate", json=PROMPT, headers=key).json()
        again = http.post("/generate", json=PROMPT, headers=key).json()

        assert first["job_id"] == again["job_id"]
        rig.render_next()
        finished = http.post("/generate", json=PROMPT, headers=key)
        assert finished.status_code == 200
        assert finished.json()["job_id"] == first["job_id"]

    def test_quotes_around_the_key_do_not_matter(self, http):
        first = http.post("/generate", json=PROMPT, headers=AT_ONCE | {"Idempotency-Key": "show-1"})
        again = http.post("/generate", json=PROMPT, headers=AT_ONCE | {"Idempotency-Key": '"show-1"'})

        assert first.json()["job_id"] == again.json()["job_id"]

    def test_the_same_key_with_another_body_is_422(self, http):
        key = AT_ONCE | {"Idempotency-Key": "show-1"}
        http.post("/generate", json=PROMPT, headers=key)

        answer = http.post("/generate", json=PROMPT | {"seed": 8}, headers=key)

        assert (answer.status_code, problem_of(answer).code) == (422, "idempotency_conflict")

    def test_many_tries_at_once_make_one_job(self, rig, http):
        key = AT_ONCE | {"Idempotency-Key": "show-1"}
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: http.post("/generate", json=PROMPT, headers=key), range(16)))

        assert len({answer.json()["job_id"] for answer in answers}) == 1
        with rig.worker_store() as worker_store:
            rig.claim(worker_store)
        ready = http.get("/ready").json()
        assert (ready["queued"], ready["running"]) == (0, 1)

    @pytest.mark.parametrize("key", ["", "a b", "x" * 129, '"', "naïve".encode("latin-1")])
    def test_a_key_of_another_form_is_refused(self, http, key):
        answer = http.post("/generate", json=PROMPT, headers={"Idempotency-Key": key})

        assert answer.status_code == 422
        assert "Idempotency-Key" in problem_of(answer).detail


class TestJobs:
    def test_each_read_mints_a_fresh_link(self, rig, http):
        job = submit(http)
        rig.render_next()
        first = Job.model_validate(http.get(f"/jobs/{job.job_id}").json()).clip
        rig.clock.ahead += timedelta(seconds=5)
        second = Job.model_validate(http.get(f"/jobs/{job.job_id}").json()).clip

        assert first is not None
        assert second is not None
        assert first.url != second.url
        assert http.get(first.url).content == http.get(second.url).content

    def test_a_queued_job_is_cancelled_at_once(self, rig, http):
        job = submit(http)

        answer = http.delete(f"/jobs/{job.job_id}")

        assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
        assert answer.json()["error"]["code"] == "job_cancelled"
        with rig.worker_store() as worker_store:
            assert worker_store.claim(rig.clock.now()) is None

    def test_a_running_job_is_asked_to_stop(self, rig, http):
        job = submit(http)
        with rig.worker_store() as worker_store:
            rig.claim(worker_store)
            answer = http.delete(f"/jobs/{job.job_id}")

            assert (answer.status_code, answer.json()["state"]) == (202, "running")
            assert "retry-after" in answer.headers
            assert rig.launcher.stopped == [job.job_id]
            assert worker_store.cancel_requested(job.job_id)

    def test_a_finished_job_is_left_as_it_is(self, rig, http):
        job = submit(http)
        rig.render_next()

        answer = http.delete(f"/jobs/{job.job_id}")

        assert (answer.status_code, answer.json()["state"]) == (200, "succeeded")


class TestUnknownJobs(SharedServer):
    @pytest.mark.parametrize(
        "job_id", ["j_" + "0" * 32, "j_" + "A" * 32, "c_" + "0" * 32, "x", "%00", "j_%0a"]
    )
    @pytest.mark.parametrize(("method", "tail"), [("GET", ""), ("DELETE", ""), ("GET", "/events")])
    def test_an_unknown_id_is_404_whatever_it_looks_like(self, http, job_id, method, tail):
        answer = http.request(method, f"/jobs/{job_id}{tail}")

        assert (answer.status_code, problem_of(answer).code) == (404, "job_not_found")


def events_of(lines) -> list[tuple[int, str, Job]]:
    """Read server-sent events (WHATWG HTML, 9.2.6): blocks of fields; comments are dropped."""
    events, fields = [], {}
    for line in lines:
        if not line and "data" in fields:
            events.append((int(fields["id"]), fields["event"], Job.model_validate_json(fields["data"])))
            fields = {}
        elif line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value
    return events


class TestEvents:
    def test_every_state_and_step_is_sent_once_and_the_stream_ends(self, rig, http):
        job = submit(http)
        with http.stream("GET", f"/jobs/{job.job_id}/events") as stream:
            worker = threading.Thread(target=rig.render_next)
            worker.start()
            events = events_of(stream.iter_lines())
            worker.join()

        assert stream.headers["content-type"].startswith("text/event-stream")
        assert stream.headers["cache-control"] == "no-store"
        assert [version for version, _, _ in events] == [0, 1, 2, 3, 4, 5]
        assert {name for _, name, _ in events} == {"job"}
        assert [job.progress.step for _, _, job in events] == [0, 0, 1, 2, 3, 3]
        assert [job.state for _, _, job in events] == ["queued", *["running"] * 4, "succeeded"]
        last = events[-1][2]
        assert last.clip is not None
        assert http.get(last.clip.url).status_code == 200

    @pytest.mark.parametrize("how", [{"headers": {"Last-Event-ID": "3"}}, {"params": {"after": 3}}])
    def test_a_stream_resumes_after_the_last_event_seen(self, rig, http, how):
        job = submit(http)
        rig.render_next()

        events = events_of(http.get(f"/jobs/{job.job_id}/events", **how).iter_lines())

        assert [version for version, _, _ in events] == [4, 5]

    def test_a_stream_without_news_is_204_so_that_browsers_stop(self, rig, http):
        job = submit(http)
        last = rig.render_next().version

        answer = http.get(f"/jobs/{job.job_id}/events", headers={"Last-Event-ID": str(last)})

        assert (answer.status_code, answer.content) == (204, b"")

    @pytest.mark.parametrize("garbage", ["", "abc", "-1", "9" * 40, "٣"])
    def test_a_last_event_id_of_another_form_starts_over(self, rig, http, garbage):
        job = submit(http)
        rig.render_next()

        answer = http.get(f"/jobs/{job.job_id}/events", headers={"Last-Event-ID": garbage.encode()})

        assert events_of(answer.iter_lines())[0][0] == 0

    def test_a_silent_stream_carries_comments(self, tmp_path):
        rig = ServerRig(tmp_path, heartbeat_s=0.05)
        with rig.serve() as http:
            job = submit(http)
            with http.stream("GET", f"/jobs/{job.job_id}/events") as stream:
                assert next(line for line in stream.iter_lines() if line.startswith(":"))

    def test_a_cancel_ends_the_stream(self, rig, http):
        job = submit(http)
        with http.stream("GET", f"/jobs/{job.job_id}/events") as stream:
            http.delete(f"/jobs/{job.job_id}")
            events = events_of(stream.iter_lines())

        assert events[-1][2].state == "cancelled"

    def test_a_follower_that_leaves_is_let_go(self, rig, http):
        job = submit(http)
        with http.stream("GET", f"/jobs/{job.job_id}/events") as stream:
            next(stream.iter_lines())

        until(lambda: not rig.store.feed.followers)


class TestOperation:
    def test_health_never_asks_the_studio(self, tmp_path):
        with ServerRig(tmp_path, jobs=failing("backlog", AssertionError())).serve() as http:
            answer = http.get("/health")

        assert answer.status_code == 200
        assert {"status": "ok", "version": "9.9.9", "recipe": "tiny-random"}.items() <= answer.json().items()

    def test_ready_is_503_until_a_worker_can_take_work(self, rig, http):
        rig.launcher.ready = not_ready(WorkerDiedError("the worker exited with code 7"))
        unready = http.get("/ready")
        rig.launcher.ready = Readiness(ready=True, status="asleep", detail="the next job wakes a worker")
        submit(http)
        ready = http.get("/ready")

        assert (unready.status_code, ready.status_code) == (503, 200)
        assert problem_of(unready).code == "worker_died"
        assert problem_of(unready).detail == "the worker exited with code 7"
        assert int(unready.headers["retry-after"]) > 0
        assert Readiness.model_validate(ready.json()).queued == 1

    def test_links_carry_the_public_address_when_there_is_one(self, tmp_path):
        with ServerRig(tmp_path, base_url="https://studio.example/").serve() as http:
            job = submit(http)

        assert job.links.self == f"https://studio.example/jobs/{job.job_id}"


class TestProblems(SharedServer):
    @pytest.mark.parametrize(
        ("body", "status", "code", "words"),
        [
            (b"{", 400, "malformed_json", "not JSON"),
            (b"\xff\xfe", 400, "malformed_json", "not JSON"),
            (b"[" * 60_000, 400, "bad_request", ""),
            (b'{"prompt": ' + b"9" * 5000 + b"}", 400, "bad_request", ""),
            (b"[]", 422, "invalid_request", "body"),
            (b"{}", 422, "invalid_request", "prompt: Field required"),
            (b'{"prompt": "  "}', 422, "invalid_request", "prompt: "),
            (b'{"prompt": "a\\u0000b"}', 422, "invalid_request", "U+0000"),
            (b'{"prompt": "\\ud800"}', 422, "invalid_request", "prompt"),
            (b'{"prompt": "a", "duration": NaN}', 422, "invalid_request", "duration: "),
            (b'{"prompt": "a", "seed": -1}', 422, "invalid_request", "seed: "),
            (b'{"prompt": "a", "model": "x"}', 422, "invalid_request", "model: "),
            (b'{"prompt": "' + b"x" * 70_000 + b'"}', 413, "body_too_large", "65536"),
        ],
    )
    def test_a_bad_body_is_a_problem_that_names_the_field(self, http, body, status, code, words):
        answer = http.post("/generate", content=body, headers={"Content-Type": "application/json"})

        assert (answer.status_code, problem_of(answer).code) == (status, code)
        assert words in problem_of(answer).detail

    def test_a_problem_does_not_repeat_what_was_sent(self, http):
        answer = http.post(
            "/generate", json={"prompt": "secret " * 400, "resolution": "secret", "seed": "secret"}
        )

        assert answer.status_code == 422
        assert "secret" not in answer.text

    def test_a_streamed_body_is_bounded_too(self, http):
        answer = http.post(
            "/generate",
            content=iter([b" " * 30_000] * 3),
            headers={"Content-Type": "application/json"},
        )

        assert (answer.status_code, problem_of(answer).code) == (413, "body_too_large")

    @pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", None])
    def test_only_json_is_taken(self, http, content_type):
        headers = {} if content_type is None else {"Content-Type": content_type}
        answer = http.post("/generate", content=json.dumps(PROMPT), headers=headers)

        assert (answer.status_code, problem_of(answer).code) == (415, "unsupported_media_type")

    def test_an_unknown_path_is_a_problem(self, http):
        answer = http.get("/nowhere")

        assert (answer.status_code, problem_of(answer).code) == (404, "not_found")

    @pytest.mark.parametrize(
        ("method", "path", "allowed"),
        [
            ("GET", "/generate", {"POST"}),
            ("PUT", "/jobs/j_" + "0" * 32, {"GET", "HEAD", "DELETE"}),
            ("POST", "/outputs/c_" + "0" * 32, {"GET", "HEAD", "OPTIONS"}),
        ],
    )
    def test_a_wrong_method_is_answered_with_all_the_right_ones(self, http, method, path, allowed):
        answer = http.request(method, path)

        assert (answer.status_code, problem_of(answer).code) == (405, "method_not_allowed")
        assert set(answer.headers["allow"].split(", ")) == allowed


class TestTextFromChat:
    @pytest.mark.parametrize("prompt", ["\u200b", " \U000e0000", "&#8203;"])
    def test_an_invisible_prompt_is_refused(self, rig, http, prompt):
        answer = http.post("/generate", json={"prompt": prompt}, headers=AT_ONCE)

        assert (answer.status_code, problem_of(answer).code) == (422, "invalid_request")
        assert rig.launcher.launched == []

    def test_an_invisible_character_changes_nothing_but_the_record_of_what_was_sent(self, http):
        plain, repeated = submit(http), submit(http, prompt=PROMPT["prompt"] + " \U000e0000")

        assert repeated.request.prompt_used == plain.request.prompt_used
        assert repeated.request.prompt == PROMPT["prompt"] + " \U000e0000"

    def test_one_idempotency_key_takes_both_spellings_of_a_prompt(self, http):
        headers = AT_ONCE | {"Idempotency-Key": "chat-1"}
        answers = [
            http.post("/generate", json=PROMPT | {"prompt": prompt}, headers=headers)
            for prompt in ("a caf\u00e9", "a cafe\u0301\u200b")
        ]

        assert [answer.status_code for answer in answers] == [202, 202]
        assert answers[0].json()["job_id"] == answers[1].json()["job_id"]


class TestFaults:
    @pytest.mark.parametrize("error", [ZeroDivisionError("secret"), PermissionError(13, "the secret path")])
    def test_an_unexpected_error_is_a_500_that_shows_only_its_request_id(self, tmp_path, error):
        with ServerRig(tmp_path, jobs=failing("get", error)).serve() as http:
            answer = http.get("/jobs/j_" + "0" * 32)

        assert (answer.status_code, problem_of(answer).code) == (500, "internal_error")
        assert "secret" not in answer.text

    def test_a_stream_that_meets_a_fault_sends_the_problem_and_ends(self, rig, http):
        job = submit(http)
        lose_table(rig, "events")
        lines = http.get(f"/jobs/{job.job_id}/events").text.splitlines()

        assert lines[0] == "event: problem"
        assert Problem.model_validate_json(lines[1].removeprefix("data: ")).code == "storage_failed"

    def test_a_store_that_fails_is_503(self, rig, http):
        job = submit(http)
        lose_table(rig, "jobs")

        answer = http.get(f"/jobs/{job.job_id}")

        assert (answer.status_code, problem_of(answer).code) == (503, "storage_failed")
        assert problem_of(answer).retryable


class TestContext:
    TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    def test_the_callers_ids_are_echoed_and_stored_in_the_job(self, rig, http):
        ids = {"X-Request-ID": "show-1.42", "traceparent": self.TRACEPARENT}
        answer = http.post("/generate", json=PROMPT, headers=AT_ONCE | ids)

        assert answer.headers["x-request-id"] == answer.json()["request_id"] == "show-1.42"
        assert answer.headers["traceparent"] == self.TRACEPARENT
        with rig.worker_store() as worker_store:
            assert rig.claim(worker_store).traceparent == self.TRACEPARENT

    def test_a_request_id_of_another_form_is_replaced(self, http):
        answer = http.get("/health", headers={"X-Request-ID": "ü".encode()})

        assert answer.headers["x-request-id"].startswith("r_")

    def test_answers_are_not_cached_and_not_sniffed(self, http):
        headers = http.get("/health").headers

        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers

    def test_a_page_of_another_origin_may_not_post(self, http):
        preflight = http.options(
            "/generate", headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        )

        assert preflight.status_code == 405
        assert "access-control-allow-origin" not in preflight.headers


def test_shutdown_ends_waits_and_streams(tmp_path):
    rig = ServerRig(tmp_path)
    with ThreadPoolExecutor() as pool:
        with rig.serve() as http:
            job = submit(http)
            url = str(http.base_url)
            stream = pool.submit(httpx.get, f"{url}/jobs/{job.job_id}/events", timeout=PATIENCE_S)
            until(lambda: rig.store.feed.followers)
        stream.exception(PATIENCE_S)  # the server has stopped: `serve` saw to it


def test_openai_refusals_are_counted_too(rig, http):
    http.post("/v1/videos", json={"prompt": ""})

    assert 'outcome="refused"' in http.get("/metrics").text
