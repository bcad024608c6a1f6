"""For tests that share one server; `shared_server` is a fixture of the integration tests."""

import httpx
import pytest

from support.server_rig import ServerRig


class SharedServer:
    """Tests that change nothing share one server: to start a server takes longer than such a test."""

    @pytest.fixture
    def rig(self, shared_server: tuple[ServerRig, httpx.Client]) -> ServerRig:
        return shared_server[0]

    @pytest.fixture
    def http(self, shared_server: tuple[ServerRig, httpx.Client]) -> httpx.Client:
        return shared_server[1]
