"""The real client and command line against settings and servers that are not as they should be."""

import gzip
import json
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from anime_studio.cli.output import ExitCode
from anime_studio.client import AsyncStudioClient, ClientSettingsError, StudioClient, StudioError
from anime_studio.client.connection import LARGEST_ANSWER_BYTES
from support.command_line import run
from support.server_rig import ServerRig
from support.wire import JOB_ID, job_json

ELSEWHERE = "http://studio.example:8017"
SCREEN = "\x1b[2J\x1b]0;mine\x07\x9b5A"


def head(content_type: str = "application/json", **headers: str) -> bytes:
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(
        ["HTTP/1.1 200 OK", f"Content-Type: {content_type}", "Connection: close", *lines, "", ""]
    ).encode()


class Hostile:
    """A server that answers each path with bytes of the test's choice, and counts what it could send."""

    def __init__(self, answer: Callable[[str], Iterator[bytes]]) -> None:
        self.sent_bytes = 0
        self._answer = answer

    @contextmanager
    def serving(self) -> Iterator[str]:
        hostile = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                path = self.rfile.readline().split()[1].decode()
                while self.rfile.readline() not in (b"\r\n", b""):
                    pass
                try:
                    for chunk in hostile._answer(path):
                        self.wfile.write(chunk)
                        hostile.sent_bytes += len(chunk)
                except OSError:
                    pass  # the client had enough

        with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
            server.daemon_threads = True
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_address[1]}"
            finally:
                server.shutdown()
                thread.join()


@contextmanager
def answering(*chunks: bytes) -> Iterator[str]:
    with Hostile(lambda _: iter(chunks)).serving() as url:
        yield url


# Settings of the environment


@pytest.mark.parametrize(
    "environment",
    [
        {"NO_PROXY": "fe80::/10", "HTTP_PROXY": "http://127.0.0.1:9"},
        {"ALL_PROXY": "socks5://127.0.0.1:9"},
        {"HTTP_PROXY": "teleport://127.0.0.1:9"},
        {"SSL_CERT_FILE": "/nowhere/ca.pem"},
    ],
)
@pytest.mark.parametrize("command", ["status", "preflight"])
def test_an_environment_that_cannot_be_used_is_named(environment, command, tmp_path: Path) -> None:
    result = run(command, "--url", ELSEWHERE, cwd=tmp_path, **environment)

    assert "Traceback" not in result.stderr
    assert result.returncode == ExitCode.USAGE, result.stderr
    assert all(f"{name}={value}" in result.stderr for name, value in environment.items())


def test_a_proxys_password_is_not_shown(tmp_path: Path) -> None:
    result = run("status", "--url", ELSEWHERE, cwd=tmp_path, ALL_PROXY="socks5://me:secret@127.0.0.1:9")

    assert result.returncode == ExitCode.USAGE
    assert "ALL_PROXY" in result.stderr and "me:secret" not in result.stderr


def test_with_json_it_is_a_problem(tmp_path: Path) -> None:
    result = run("status", "--json", "--url", ELSEWHERE, cwd=tmp_path, ALL_PROXY="socks5://127.0.0.1:9")

    assert json.loads(result.stderr)["code"] == "configuration_invalid"


async def test_the_asyncio_client_raises_the_same(monkeypatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    for kind in (StudioClient, AsyncStudioClient):
        with pytest.raises(ClientSettingsError, match="ALL_PROXY=socks5://"):
            kind(ELSEWHERE)


# Servers


@pytest.mark.parametrize("body", [b"\xff\xfe\x00", b"{", b"[" * 100_000, b"null", b'{"a":' * 5000])
def test_garbage_as_json_is_an_error_with_words(body: bytes, tmp_path: Path) -> None:
    with answering(head(), body) as url:
        result = run("status", JOB_ID, "--url", url, cwd=tmp_path)

    assert "Traceback" not in result.stderr
    assert "is this the address of an anime-studio" in result.stderr
    assert result.returncode == ExitCode.FAILED


@pytest.mark.parametrize("location", ["http://[", "http://\x7f", "//", "http://a:99999999"])
def test_a_redirect_to_nowhere_is_an_error_with_words(location: str, tmp_path: Path) -> None:
    redirect = f"HTTP/1.1 303 See Other\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()
    with answering(redirect) as url:
        result = run("status", JOB_ID, "--url", url, cwd=tmp_path)

    assert "Traceback" not in result.stderr
    assert result.returncode in (ExitCode.FAILED, ExitCode.UNREACHABLE, ExitCode.UNAVAILABLE)


@pytest.mark.parametrize(
    "garbage",
    [b"event: job\ndata: {}\n\n", b"event: job\ndata: \xff\xfe\n\n", b"\x00\xff\n\n", b"data: x" * 300_000],
)
def test_garbage_in_an_event_stream_is_passed_over_and_the_job_read(garbage: bytes) -> None:
    def answer(path: str) -> Iterator[bytes]:
        streams = path.endswith("/events")
        yield (
            head("text/event-stream") + garbage
            if streams
            else head() + job_json(version=5, state="cancelled").encode()
        )

    with Hostile(answer).serving() as url, StudioClient(url) as studio:
        assert [job.version for job in studio.events(JOB_ID)] == [5]


def test_a_small_compressed_answer_does_not_fill_the_memory() -> None:
    bomb = gzip.compress(bytes(300 * 1024**2))
    code = (
        "import resource, sys\n"
        "from anime_studio.client import StudioClient, StudioError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n"
        "    StudioClient(sys.argv[1], retry_for_s=0).health()\n"
        "except StudioError as error:\n"
        "    print(error.code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    with answering(head(Content_Encoding="gzip"), bomb) as url:
        result = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, check=True)

    name, grown_kib = result.stdout.split()
    assert name == "unexpected_answer"
    assert int(grown_kib) < 64 * 1024


@pytest.mark.parametrize("kind", [StudioClient, AsyncStudioClient])
async def test_an_answer_without_an_end_is_cut(kind: type) -> None:
    def endless(_: str) -> Iterator[bytes]:
        yield head()
        while True:
            yield b" " * 65536

    hostile = Hostile(endless)
    with hostile.serving() as url, pytest.raises(StudioError, match="sent more than"):
        health = kind(url, retry_for_s=0).health()
        if kind is AsyncStudioClient:
            await health
    assert hostile.sent_bytes < 4 * LARGEST_ANSWER_BYTES


# What people see


def test_a_problems_detail_cannot_drive_the_terminal(tmp_path: Path) -> None:
    problem = {
        "type": "/problems/x", "title": "x", "status": 418, "detail": f"no{SCREEN}", "code": "x", "retryable": False,
    }  # fmt: skip
    body = json.dumps(problem, ensure_ascii=False).encode()
    status_line = (
        b"HTTP/1.1 418 Teapot\r\nContent-Type: application/problem+json\r\nConnection: close\r\n\r\n"
    )
    with answering(status_line, body) as url:
        result = run("status", JOB_ID, "--url", url, cwd=tmp_path)

    assert result.returncode == ExitCode.REFUSED
    assert "\\x1b[2J" in result.stderr
    assert not any(character in result.stderr for character in "\x1b\x07\x9b")


@pytest.mark.parametrize(
    "command", [["status"], ["status", JOB_ID], ["cancel", JOB_ID], ["doctor"], ["preflight"]]
)
def test_a_password_in_the_address_is_not_shown(command: list[str], tmp_path: Path) -> None:
    result = run(*command, "--url", "http://me:secret@127.0.0.1:9/", cwd=tmp_path)

    assert "secret@" not in (result.stdout + result.stderr).replace("[secret]@", "")
    assert "me:secret" not in result.stdout + result.stderr


def test_a_wrong_address_is_refused_without_its_password(tmp_path: Path) -> None:
    result = run("status", "--url", "ftp://me:secret@studio.example", cwd=tmp_path)

    assert result.returncode == ExitCode.USAGE
    assert "me:secret" not in result.stderr


def test_a_file_made_while_the_clip_is_rendered_is_not_replaced(
    rig: ServerRig, http: httpx.Client, tmp_path: Path
) -> None:
    out = tmp_path / "clip.mp4"

    def render() -> None:
        with rig.worker_store() as worker_store:
            job = rig.claim(worker_store)
            out.write_bytes(b"mine")
            rig.finish(worker_store, job)

    worker = threading.Thread(target=render)
    worker.start()
    result = run("generate", "a cat", "--out", str(out), "--url", str(http.base_url), cwd=tmp_path)
    worker.join()

    assert result.returncode == ExitCode.FILE, result.stderr
    assert out.read_bytes() == b"mine"
    assert "--force" in result.stderr and "anime-studio fetch j_" in result.stderr
    assert [path.name for path in tmp_path.glob("*.part")] == []
