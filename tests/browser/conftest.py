"""A real Chromium, headless, against the real server; no page may load from elsewhere or complain."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from support.chromium import ARGUMENTS, EXECUTABLE, PATIENCE_MS, NewPage
from support.local_server import LocalServer
from support.ports import free_port
from support.stage import Stage

playwright = pytest.importorskip("playwright.sync_api", reason="pip install -e '.[dev]' brings playwright")

ARTIFACTS = Path(__file__).parents[2] / "test-artifacts"


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    if EXECUTABLE is None:
        pytest.skip("chromium is not installed; on Debian: apt-get install chromium")
    # Not for the whole session: its event loop would be in the way of the asyncio tests.
    playwright.expect.set_options(timeout=PATIENCE_MS)  # its own is 5 s
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=EXECUTABLE, args=ARGUMENTS, timeout=PATIENCE_MS)
        yield browser
        browser.close()


@pytest.fixture
def new_page(browser: "playwright.Browser") -> Iterator[NewPage]:
    """Opens pages; at the end of the test none may have broken its policy, thrown, or gone elsewhere."""
    faults: list[str] = []
    contexts = []

    def open_page(base_url: str, **options: object) -> "playwright.Page":
        context = browser.new_context(
            base_url=base_url, **({"viewport": {"width": 1360, "height": 900}} | options)
        )
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(f"thrown: {error}"))
        page.on("console", lambda message: faults.append(message.text) if _is_fault(message) else None)
        page.on(
            "request",
            lambda request: faults.append(request.url) if _is_foreign(request.url, base_url) else None,
        )
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """The real web app, store and folder; the test plays the worker and moves the clock."""
    return Stage(tmp_path)


@pytest.fixture(scope="session")
def server(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """The whole studio: server process, worker process, a model of random weights; on a port that stays its own."""
    models_dir = tiny_checkpoint.parent.parent
    server = LocalServer(tmp_path_factory.mktemp("server"), models_dir, port=free_port())
    try:
        server.start()
        yield server
        server.stop()
    finally:
        server.kill()


@pytest.fixture(scope="session")
def artifacts() -> Path:
    ARTIFACTS.mkdir(exist_ok=True)
    return ARTIFACTS


def _is_fault(message: "playwright.ConsoleMessage") -> bool:
    # What the network does is the tests' own doing: expired links, a killed server.
    return message.type in ("error", "warning") and not message.text.startswith("Failed to load resource")


def _is_foreign(url: str, base_url: str) -> bool:
    return urlsplit(url).netloc != urlsplit(base_url).netloc
