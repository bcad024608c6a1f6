"""A studio behind a real socket."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from support.stage import Stage


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """Not yet serving, so that a test can change its policy and options."""
    return Stage(tmp_path)


@pytest.fixture
def http(stage: Stage) -> Iterator[httpx.Client]:
    """Serves *stage*."""
    with stage.serve() as client:
        yield client


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stage, httpx.Client]]:
    """One server for all tests of a module that leave it as it was."""
    stage = Stage(tmp_path_factory.mktemp("standing"))
    with stage.serve() as http:
        yield stage, http
