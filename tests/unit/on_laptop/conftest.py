"""A prepared database, and the worker's store on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from anime_studio.on_laptop.database import prepare
from anime_studio.on_laptop.worker_store import SqliteWorkerStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "jobs.sqlite3"
    prepare(path)
    return path


@pytest.fixture
def store(path: Path) -> Iterator[SqliteWorkerStore]:
    store = SqliteWorkerStore(path, max_attempts=3)
    yield store
    store.close()
