"""Chromium for the browser tests: where it is, its arguments, the longest wait."""

import shutil
from collections.abc import Callable
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
EXECUTABLE = next((path for name in NAMES if (path := shutil.which(name))), None)
ARGUMENTS = [
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",  # as OBS starts its browser
]
PATIENCE_MS = 90_000

NewPage = Callable[..., Any]
"""Opens a Playwright page: `new_page(base_url, **context_options)`."""
