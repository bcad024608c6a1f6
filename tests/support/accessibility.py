"""axe-core on a page, for tests of any page in any state."""

from typing import Any

import pytest

axe = pytest.importorskip(
    "axe_playwright_python.sync_playwright", reason="pip install -e '.[dev]' brings axe-core"
)

# Colours in transition have no contrast yet; endless animations change none.
TRANSITIONS_ENDED = """() => document.getAnimations().every((animation) =>
  animation.playState !== "running" || animation.effect.getTiming().iterations === Infinity)"""


def assert_accessible(page: Any) -> None:
    page.wait_for_function(TRANSITIONS_ENDED)
    results = axe.Axe().run(page)
    assert results.violations_count == 0, results.generate_report()
