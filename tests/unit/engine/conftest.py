"""One loaded engine for all tests of this folder."""

from pathlib import Path

import pytest

from anime_studio.core.recipes import TINY_RANDOM
from anime_studio.engine.engine import Engine, load_engine


@pytest.fixture(scope="session")
def engine(tiny_checkpoint: Path) -> Engine:
    return load_engine(TINY_RANDOM, tiny_checkpoint, device="cpu")
