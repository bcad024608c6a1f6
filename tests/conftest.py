"""Puts this folder on the import path, so that every test finds `support`; shares the tiny checkpoint."""

import signal
from pathlib import Path

import pytest

BROWSER = Path(__file__).parent / "browser"


def pytest_configure() -> None:
    """Heed SIGINT, as our children then do: a shell has its background jobs ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a browser by its folder."""
    for item in items:
        if BROWSER in item.path.parents:
            item.add_marker("browser")


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a `tiny-random` checkpoint, written once; copy it before changing it."""
    import torch

    from anime_studio.engine.loading.tiny_random import write_tiny_random

    torch.set_num_threads(1)
    return write_tiny_random(tmp_path_factory.mktemp("models") / "tiny-random" / "random-0")
