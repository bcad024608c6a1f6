"""More clients than the server can serve, and clients that never finish: over real sockets."""

import asyncio
import contextlib
import json
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn

from anime_studio.on_laptop.connections import BoundedConfig, max_connections
from anime_studio.web.app import create_app
from support.server_rig import PATIENCE_S, ServerRig, until

SOON_S = 0.3
AT_ONCE = {"Prefer": "respond-async"}


@contextlib.contextmanager
def serving(app: object, **bounds: object) -> Iterator[int]:
    """Serve *app* within *bounds* on a free port."""
    options: dict[str, object] = {"max_connections": 100, "timeout_graceful_shutdown": 1} | bounds
    config = BoundedConfig(app, host="127.0.0.1", port=0, log_config=None, access_log=False, **options)  # type: ignore[arg-type]
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        until(lambda: server.started)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)


@contextlib.contextmanager
def studio_within(folder: Path, **bounds: object) -> Iterator[httpx.Client]:
    rig = ServerRig(folder)
    with (
        serving(create_app(rig.open_studio, rig.options), **bounds) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as http,
    ):
        yield http


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), PATIENCE_S)


def rest_of(connection: socket.socket) -> bytes:
    """Read until the server closes."""
    with contextlib.suppress(ConnectionResetError):
        return b"".join(iter(lambda: connection.recv(65536), b""))
    return b""


def test_idle_connections_beyond_the_bound_do_not_silence_the_server(tmp_path: Path) -> None:
    with studio_within(tmp_path, max_connections=20) as http, contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connect(http.base_url.port or 0)) for _ in range(60)]

        assert http.get("/health").status_code == 200
        assert rest_of(idle[0]) == b""  # the one that was idle for longest made room


def test_when_every_connection_is_at_work_a_new_one_gets_503_and_when_to_return(tmp_path: Path) -> None:
    with studio_within(tmp_path, max_connections=4) as http, contextlib.ExitStack() as stack:
        job = http.post("/generate", json={"prompt": "a cat"}, headers=AT_ONCE).json()
        for _ in range(4):
            stack.enter_context(http.stream("GET", f"/jobs/{job['job_id']}/events"))

        refused = httpx.get(http.base_url.join("/health"), timeout=PATIENCE_S)

    assert (refused.status_code, refused.json()["code"], refused.headers["retry-after"]) == (
        503,
        "unavailable",
        "1",
    )


@pytest.mark.parametrize("begun", [b"", b"GET /hea", b"POST /generate HTTP/1.1\r\nHost: x\r\n"])
def test_a_header_that_does_not_come_ends_the_connection(tmp_path: Path, begun: bytes) -> None:
    with studio_within(tmp_path, header_s=SOON_S) as http, connect(http.base_url.port or 0) as connection:
        connection.sendall(begun)

        assert rest_of(connection) == b""


def test_a_trickle_does_not_extend_the_time_for_the_header(tmp_path: Path) -> None:
    with studio_within(tmp_path, header_s=SOON_S) as http, connect(http.base_url.port or 0) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\n")
        ended = threading.Event()

        def trickle() -> None:
            with contextlib.suppress(OSError):
                while not ended.wait(SOON_S / 10):
                    connection.sendall(b"X-A: b\r\n")

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            assert rest_of(connection) == b""
        finally:
            ended.set()
            thread.join()


def test_a_body_that_does_not_come_is_answered_408(tmp_path: Path) -> None:
    with studio_within(tmp_path, body_s=SOON_S) as http, connect(http.base_url.port or 0) as connection:
        connection.sendall(
            b"POST /generate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )

        assert rest_of(connection).startswith(b"HTTP/1.1 408 ")


def test_a_client_that_never_reads_is_cut() -> None:
    cut = threading.Event()

    async def endless(scope, receive, send):  # type: ignore[no-untyped-def]
        if scope["type"] != "http":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            for _ in range(100_000):
                await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
                if (await receive_now(receive))["type"] == "http.disconnect":
                    break
        finally:
            cut.set()

    async def receive_now(receive):  # type: ignore[no-untyped-def]
        try:
            return await asyncio.wait_for(receive(), 0.001)
        except TimeoutError:
            return {"type": "none"}

    with serving(endless, unread_s=SOON_S, lifespan="off") as port, connect(port) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert cut.wait(PATIENCE_S)


def test_a_connection_within_its_limits_is_kept(tmp_path: Path) -> None:
    with studio_within(tmp_path) as http:
        for _ in range(3):
            assert http.post("/generate", json={"prompt": "a cat"}, headers=AT_ONCE).status_code == 202
        ports = set()
        for _ in range(3):
            with http.stream("GET", "/health") as answer:
                ports.add(answer.extensions["network_stream"].get_extra_info("client_addr"))
                answer.read()
        assert len(ports) == 1


def test_the_soft_limit_of_open_files_is_raised() -> None:
    code = (
        "import resource\n"
        "from anime_studio.on_laptop.connections import raise_descriptor_limit\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n"
        "print(raise_descriptor_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    returned, soft, hard = map(int, result.stdout.split())
    assert returned == soft > 256
    assert hard == resource.getrlimit(resource.RLIMIT_NOFILE)[1]


@pytest.mark.parametrize("descriptors", [128, 1024, 65_536])
def test_connections_and_their_files_fit_into_the_descriptors(descriptors: int) -> None:
    assert 8 <= max_connections(descriptors) <= max(8, descriptors // 2)


def test_a_log_pipe_that_nobody_reads_stops_nothing() -> None:
    code = (
        "import structlog, sys\n"
        "from anime_studio.settings import Settings\n"
        "from anime_studio.telemetry import configure_logging\n"
        "configure_logging(Settings(log_format='json'), component='server')\n"
        "for number in range(3000):\n"
        "    structlog.get_logger().info('job.started', number=number, text='x' * (number % 9000))\n"
        "print('done', flush=True)\n"
        "sys.stdin.readline()\n"
        "structlog.get_logger().info('job.finished')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None and process.stdin is not None
    assert process.stdout.readline() == b"done\n"
    os.set_blocking(process.stderr.fileno(), False)
    written = process.stderr.read()  # the reader comes back
    process.stdin.write(b"\n")
    process.stdin.close()
    process.wait(PATIENCE_S)
    os.set_blocking(process.stderr.fileno(), True)
    rest = process.stderr.read()
    process.stderr.close()
    process.stdout.close()

    assert json.loads(written.splitlines()[0])["number"] == 0
    assert b"log lines were dropped" in rest
    assert json.loads(rest.splitlines()[-1])["event"] == "job.finished"
