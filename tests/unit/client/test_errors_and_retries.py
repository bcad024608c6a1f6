"""The client's errors and retries: its flows, driven by hand or over httpx's mock transport."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from anime_studio import client as public
from anime_studio.client import (
    InvalidRequestError,
    JobNotFoundError,
    QueueFullError,
    RefusedError,
    StudioClient,
    StudioError,
    UnavailableError,
    UnreachableError,
    flows,
)
from anime_studio.client.errors import _BY_CODE, own_problem
from anime_studio.client.flows import Sleep
from anime_studio.client.following import Events, StreamProblemError
from anime_studio.client.requests import Options
from common.schemas import ClientSignal, GenerateRequest, Job, Resolution, SignalKind
from support.wire import JOB_ID, job_json

URL = "http://studio.example"
PATIENT = flows.Studio(URL, retry_for_s=30, patience_s=30)
Answer = Callable[[httpx.Request], httpx.Response]


def studio(answer: Answer, **options: float) -> StudioClient:
    return StudioClient(URL, transport=httpx.MockTransport(answer), **options)


def with_request(response: httpx.Response) -> httpx.Response:
    response.request = httpx.Request("GET", URL)
    return response


def problem(code: str, status: int, **more: object) -> httpx.Response:
    body = own_problem(code, "words", status=status).model_dump() | more
    return httpx.Response(status, json=body)


def test_a_lost_answer_is_asked_for_again_under_the_same_key() -> None:
    flow = flows.submit(PATIENT, "{}", "key-1")
    sent = [next(flow)]
    assert isinstance(flow.throw(httpx.ReadError("reset")), Sleep)
    sent.append(next(flow))
    assert isinstance(flow.send(with_request(httpx.Response(502, text="<html>bad gateway</html>"))), Sleep)
    sent.append(next(flow))
    with pytest.raises(StopIteration) as end:
        flow.send(httpx.Response(202, content=job_json()))
    assert end.value.value.state == "queued"
    assert sent == [sent[0]] * 3
    assert sent[0].headers["Idempotency-Key"] == "key-1"


def test_retry_after_is_honoured() -> None:
    flow = flows.get_job(PATIENT, JOB_ID)
    next(flow)
    assert flow.send(problem("queue_full", 429, retryable=True, retry_after_s=7.0)) == Sleep(7.0)
    next(flow)
    assert flow.send(with_request(httpx.Response(503, headers={"Retry-After": "9"}))) == Sleep(9.0)


def test_a_retry_after_beyond_the_patience_raises_at_once() -> None:
    full = problem("queue_full", 429, retryable=True, retry_after_s=600.0)
    with pytest.raises(QueueFullError) as raised:
        studio(lambda _: full).submit("a cat")
    assert raised.value.retryable
    assert raised.value.problem.retry_after_s == 600


def test_modals_303_after_150_s_is_followed_with_get() -> None:
    seen: list[tuple[str, str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append((request.method, str(request.url)))
        if len(seen) < 3:
            return httpx.Response(303, headers={"Location": "/generate?__modal_function_call_id=fc-1"})
        return httpx.Response(200, content=job_json())

    studio(answer).submit("a cat")
    assert [method for method, _ in seen] == ["POST", "GET", "GET"]


def test_a_post_is_not_sent_elsewhere() -> None:
    methods: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        methods.append(request.method)
        return httpx.Response(308, headers={"Location": "http://elsewhere.example/generate"})

    with pytest.raises(StudioError) as raised:
        studio(answer).submit("a cat")
    assert methods == ["POST"]
    assert raised.value.code == "unexpected_answer"


@pytest.mark.parametrize(("code", "kind"), _BY_CODE.items())
def test_each_code_has_its_class(code: str, kind: type[StudioError]) -> None:
    with pytest.raises(kind) as raised:
        studio(lambda _: problem(code, 422)).get(JOB_ID)
    assert raised.value.code == code


def test_codes_of_a_newer_server_are_classed_by_status() -> None:
    with pytest.raises(RefusedError, match="words"):
        studio(lambda _: problem("brand_new", 418)).health()
    with pytest.raises(UnavailableError):
        studio(lambda _: problem("brand_new", 500)).health()


def test_another_service_at_the_address_is_named() -> None:
    with pytest.raises(StudioError, match="is this the address of an anime-studio") as raised:
        studio(lambda _: httpx.Response(200, text="hello")).health()
    assert raised.value.code == "unexpected_answer"


def test_no_answer_names_the_address() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(UnreachableError, match=r"no answer from http://studio\.example: refused"):
        studio(answer, retry_for_s=0).health()


def test_a_job_id_stays_within_its_path() -> None:
    paths: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.raw_path)
        return problem("job_not_found", 404)

    with pytest.raises(JobNotFoundError):
        studio(answer).get("../health?x#y")
    assert paths == [b"/jobs/..%2Fhealth%3Fx%23y"]


def test_what_the_contract_refuses_is_never_sent() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise AssertionError(request)

    with pytest.raises(InvalidRequestError, match="duration"):
        studio(answer).submit("a cat", duration=-1)
    with pytest.raises(InvalidRequestError, match="prompt"):
        studio(answer).submit("   ")


def test_only_what_was_given_is_sent() -> None:
    bodies: list[object] = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content))
        return httpx.Response(202, content=job_json())

    studio(answer).submit("a cat", seed=0)
    assert bodies == [{"prompt": "a cat", "seed": 0}]


def test_not_ready_is_an_answer() -> None:
    readiness = studio(lambda _: problem("unavailable", 503)).ready()
    assert not readiness.ready
    assert readiness.detail == "words"


def test_readiness_is_asked_for_one_size() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url.query, "ascii"))
        return problem("unsupported_by_recipe", 422) if "1080p" in asked[-1] else problem("unavailable", 503)

    client = studio(answer)
    assert not client.ready().ready and not client.ready(Resolution.P480).ready
    with pytest.raises(InvalidRequestError, match="words"):
        client.ready("1080p")
    assert asked == ["", "resolution=480p", "resolution=1080p"]


def test_a_signal_is_sent_once() -> None:
    calls: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        calls.append(request.url.path)
        return problem("unavailable", 503)

    with pytest.raises(UnavailableError):
        studio(answer).signal(ClientSignal(kind=SignalKind.FALLBACK_PLAYED, source="bot"))
    assert calls == ["/telemetry/signals"]


@pytest.mark.parametrize("url", ["", "studio.example", "ftp://x", "http://", "http://[::1"])
def test_an_address_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="is not an address"):
        StudioClient(url)


def test_options_are_the_fields_of_the_request() -> None:
    assert set(Options.__annotations__) | {"prompt"} == set(GenerateRequest.model_fields)


def test_both_clients_have_the_same_calls() -> None:
    def surface(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert surface(public.StudioClient) == surface(public.AsyncStudioClient)


@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
def test_events_are_read_however_they_are_cut(size: int) -> None:
    text = (
        f": still here\r\n\r\nevent: job\r\nid: 3\r\ndata: {job_json(version=3)}\r\n\r\n"
        f"event: other\ndata: x\n\nevent: job\ndata: {job_json(version=4, prompt='雪')}\n\nevent: job\ndata: half"
    ).encode()
    events = Events()
    jobs = [job for at in range(0, len(text), size) for job in events.feed(text[at : at + size])]
    assert [job.version for job in jobs] == [3, 4]
    assert jobs[1].request.prompt == "雪"


def test_a_problem_ends_the_stream() -> None:
    with pytest.raises(StreamProblemError):
        list(Events().feed(b"event: problem\ndata: {}\n\n"))


def test_importing_the_client_loads_nothing_heavy(tmp_path: Path) -> None:
    heavy = [
        "torch",
        "fastapi",
        "starlette",
        "modal",
        "diffusers",
        "transformers",
        "numpy",
        "structlog",
        "typer",
    ]
    code = f"import sys, anime_studio.client; print([m for m in {heavy!r} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert result.stdout.strip() == "[]"


async def test_progress_may_be_a_coroutine() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/events"):
            return httpx.Response(404)  # a proxy that passes no streams
        return httpx.Response(200, content=job_json(version=5, state="succeeded"))

    seen: list[int] = []

    async def show(job: Job) -> None:
        await asyncio.sleep(0)
        seen.append(job.version)

    async with public.AsyncStudioClient(URL, transport=httpx.MockTransport(answer)) as studio:
        await studio.wait(JOB_ID, on_progress=show)
    assert seen == [5]
