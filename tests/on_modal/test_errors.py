"""Whatever the Modal client raises comes out as an error of ours, with the client's own words in it."""

import errno
import socket

import modal
import pytest
from grpclib import GRPCError, Status
from grpclib.exceptions import StreamTerminatedError
from h2.exceptions import ProtocolError

from anime_studio.core.errors import StorageError, UnavailableError
from anime_studio.on_modal.errors import client_errors

pytestmark = pytest.mark.modal


@pytest.mark.parametrize(
    "cause",
    [
        modal.exception.ServiceError("no answer"),
        GRPCError(Status.UNAVAILABLE, "no answer"),
        StreamTerminatedError("no answer"),
        ProtocolError("no answer"),
        ConnectionResetError(errno.ECONNRESET, "no answer"),
        socket.gaierror(socket.EAI_AGAIN, "no answer"),
        TimeoutError("no answer"),
        OSError(errno.ENETUNREACH, "no answer"),
    ],
    ids=lambda cause: type(cause).__name__,
)
def test_the_clients_error_becomes_ours_and_is_quoted(cause: Exception):
    with (
        pytest.raises(UnavailableError, match=r"job j_1 was not taken .*no answer.*; try again") as raised,
        client_errors(UnavailableError, "job j_1 was not taken"),
    ):
        raise cause
    assert raised.value.__cause__ is cause


@pytest.mark.parametrize(
    "other", [FileNotFoundError("c_1.json"), KeyError("a fault of ours"), StorageError("x")]
)
def test_a_missing_file_and_a_fault_of_ours_pass(other: Exception):
    with pytest.raises(type(other)) as raised, client_errors(UnavailableError, "nothing"):
        raise other
    assert raised.value is other
