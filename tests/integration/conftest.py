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
