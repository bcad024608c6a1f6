"""A real, headless Chromium against the real server; a page that loads from elsewhere or logs an error fails."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from support.chromium import ARGUMENTS, EXECUTABLE, PATIENCE_MS, NewPage
from support.local_server import LocalServer
from support.ports import free_port
from support.server_rig import ServerRig

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
    """Opens pages; the test fails if one throws, breaks its policy, or sends a request elsewhere."""
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
def rig(tmp_path: Path) -> ServerRig:
    """The real web app, store and folder; the test acts as the worker and moves the clock."""
    return ServerRig(tmp_path)


@pytest.fixture(scope="session")
def server(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """The whole studio: server process, worker process, random weights; restarts on the same port."""
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
    # Network errors are part of the tests: expired links, a killed server.
    return message.type in ("error", "warning") and not message.text.startswith("Failed to load resource")


def _is_foreign(url: str, base_url: str) -> bool:
    return urlsplit(url).netloc != urlsplit(base_url).netloc
