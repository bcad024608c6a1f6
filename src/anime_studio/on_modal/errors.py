"""What the Modal client raises when it cannot do what it is asked, and one way to turn that into an error of ours.

The client retries before it raises. After that a single request ends in `modal.exception.Error` or in grpclib's
`StreamTerminatedError`, and a streamed answer (`Dict.items`, `Volume.iterdir`) ends in whatever the socket, HTTP/2 or
gRPC raised.

Source: client 1.6.4, `modal/_utils/grpc_utils.py` (`_retry_transient_errors`) and `modal/_grpc_client.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from socket import gaierror
from typing import Final

import modal
from grpclib.exceptions import GRPCError, StreamTerminatedError
from h2.exceptions import ProtocolError

from anime_studio.core.errors import AnimeStudioError

CLIENT_ERRORS: Final = (
    modal.exception.Error,
    GRPCError,
    StreamTerminatedError,
    ProtocolError,
    ConnectionError,
    TimeoutError,
    gaierror,
)
"""Each of them means: Modal was not reached, or it refused. None of them proves that a call has ended."""


@contextmanager
def client_errors(error: type[AnimeStudioError], problem: str) -> Iterator[None]:
    """Raise *error* in place of the client's own errors, and in place of an `OSError` of a mounted Volume.

    `FileNotFoundError` passes: with it the client says that a Volume has no such file.

    Args:
        error: The class to raise.
        problem: What could not be done, for people; the client's words and "try again" follow it.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except (*CLIENT_ERRORS, OSError) as cause:
        raise error(f"{problem} ({type(cause).__name__}: {cause}); try again") from cause
