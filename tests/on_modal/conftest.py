"""Fixtures for tests of the Modal app. They need no account and no network."""

from collections.abc import Iterator

import pytest

from support.modal_plane import ControlPlane, namespaces_work


@pytest.fixture
def control_plane() -> Iterator[ControlPlane]:
    """A fresh, empty control plane."""
    with ControlPlane() as plane:
        yield plane


@pytest.fixture(scope="session")
def private_root() -> None:
    """Skip where the kernel forbids the private root folder that containers run in."""
    if not namespaces_work():
        pytest.skip(
            "containers need unprivileged user namespaces; "
            "on Ubuntu: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
        )
