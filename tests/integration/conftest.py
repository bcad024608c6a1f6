"""A studio behind a real socket."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import structlog

from support.server_rig import ServerRig


@pytest.fixture(scope="session", autouse=True)
def _plain_tracebacks() -> None:
    """Log tracebacks without structlog's rendering of every frame's variables, which takes seconds."""
    renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*structlog.get_config()["processors"][:-1], renderer])


@pytest.fixture
def rig(tmp_path: Path) -> ServerRig:
    """Not yet serving, so that a test can change its policy and options."""
    return ServerRig(tmp_path)


@pytest.fixture
def http(rig: ServerRig) -> Iterator[httpx.Client]:
    """Serves *rig*."""
    with rig.serve() as client:
        yield client


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerRig, httpx.Client]]:
    """One server for all tests of a module that change nothing in it."""
    rig = ServerRig(tmp_path_factory.mktemp("shared"))
    with rig.serve() as http:
        yield rig, http
