"""One loaded engine for all tests of this folder, and a checkpoint that a test may change."""

from pathlib import Path

import pytest

from anime_studio.checkpoints.store import Checkpoint
from anime_studio.engine.engine import Engine
from support.engine import checkpoint_in, tiny_engine


@pytest.fixture(scope="session")
def engine(tiny_checkpoint: Path) -> Engine:
    return tiny_engine(tiny_checkpoint)


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Checkpoint:
    return checkpoint_in(tmp_path, tiny_checkpoint)
