"""A TCP proxy that cuts connections on order: a bad network between a real client and a real server."""

import contextlib
import socket
import threading
from collections.abc import Iterator


class CuttingProxy:
    """Cuts each of the next `cuts` connections once `after_bytes` of answer and `after` have passed."""

    def __init__(self, target_port: int) -> None:
        self.cuts = 0
        self.after_bytes = 0
        self.after = b""
        self.requests: list[str] = []
        """Heads of the requests that passed, in order."""
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    @contextlib.contextmanager
    def running(self) -> Iterator["CuttingProxy"]:
        threading.Thread(target=self._accept, daemon=True).start()
        try:
            yield self
        finally:
            self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target_port))
                threading.Thread(target=self._up, args=(client, server), daemon=True).start()
                threading.Thread(target=self._down, args=(client, server), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                self.requests.append(data.decode(errors="replace"))
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def _down(self, client: socket.socket, server: socket.socket) -> None:
        passed = bytearray()
        with contextlib.suppress(OSError):
            while data := server.recv(1024):
                client.sendall(data)
                passed += data
                if self.cuts > 0 and len(passed) >= self.after_bytes and self.after in passed:
                    self.cuts -= 1
                    break
        for end in (client, server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
