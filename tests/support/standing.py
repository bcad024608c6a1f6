"""For tests that share one server; `standing` is a fixture of the integration tests."""

import httpx
import pytest

from support.stage import Stage


class OnStandingServer:
    """Tests that change nothing share one server: starting each its own takes longer than the test."""

    @pytest.fixture
    def stage(self, standing: tuple[Stage, httpx.Client]) -> Stage:
        return standing[0]

    @pytest.fixture
    def http(self, standing: tuple[Stage, httpx.Client]) -> httpx.Client:
        return standing[1]
