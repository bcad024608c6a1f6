"""Ports that a test must know before its server is there, or find again after a restart."""

import errno
import random
import socket

BELOW_EPHEMERAL = range(20_000, 30_000)
"""Linux hands out 32768–60999 by itself, macOS and Windows 49152–65535: to any program's outgoing
connection, and even to one that is trying to reach the very port, which it then holds."""


def free_port() -> int:
    """Return a loopback port that nobody uses and that the system gives to nobody meanwhile."""
    while True:
        port = random.choice(BELOW_EPHEMERAL)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return port
