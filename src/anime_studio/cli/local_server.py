"""A local server on a free loopback port, for the time of one command."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from anime_studio.client import StudioClient
from anime_studio.core.errors import UnavailableError
from anime_studio.core.readiness import refuse_if_blocked

STARTED: Final = "server.started"
POLL_EVERY_S: Final = 0.2
LISTENS_WITHIN_S: Final = 120.0
STOP_WITHIN_S: Final = 30.0


class LocalServer:
    """The running server: its process, its log and its address."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log
        self.url = ""

    def wait_until_answering(self) -> None:
        """Wait until the server listens.

        Raises:
            UnavailableError: It ended, or did not listen in time; the detail has the last lines of its log.
        """
        until = time.monotonic() + LISTENS_WITHIN_S
        while not (url := self._logged_url()):
            self._raise_if_ended_or_late(until, "it does not listen yet")
            time.sleep(POLL_EVERY_S)
        self.url = url

    def wait_until_ready(self, timeout_s: float) -> None:
        """Wait until a worker can take a job; the engine needs time to load.

        Raises:
            UnavailableError: The server ended, or was not ready in time.
            ReportedError: It will not be ready until a person acts; the detail says how.
        """
        until = time.monotonic() + timeout_s
        with StudioClient(self.url) as studio:
            while not (readiness := studio.ready()).ready:
                refuse_if_blocked(readiness)
                self._raise_if_ended_or_late(until, readiness.detail)
                time.sleep(POLL_EVERY_S)

    def stop(self) -> None:
        """Stop the server with SIGTERM, and with SIGKILL if it does not end in time."""
        self.process.terminate()
        try:
            self.process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _log_lines(self) -> list[str]:
        return self.log.read_text(encoding="utf-8", errors="replace").splitlines()

    def _logged_url(self) -> str | None:
        started = (line for line in self._log_lines() if STARTED in line and line.startswith("{"))
        return next((json.loads(line)["url"] for line in started), None)

    def _raise_if_ended_or_late(self, until: float, detail: str) -> None:
        if self.process.poll() is None and time.monotonic() < until:
            return
        last = "\n".join(self._log_lines()[-15:])
        state = "is not ready" if self.process.returncode is None else f"ended with {self.process.returncode}"
        raise UnavailableError(f"the local server {state} ({detail}); the end of its log {self.log}:\n{last}")


@contextmanager
def running_server(data_dir: Path, *, recipe: str, models_dir: Path | None = None) -> Iterator[LocalServer]:
    """Run `anime-studio serve` on a free loopback port on *data_dir*, and stop it at the end.

    A SIGTERM or SIGHUP to this process, unless it is ignored, is such an end too: the main thread leaves the block
    with SystemExit.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    log = data_dir / "server.log"
    command = [
        *(sys.executable, "-m", "anime_studio.cli", "serve", "--host", "127.0.0.1", "--port", "0"),
        *("--data-dir", str(data_dir), "--recipe", recipe, "--log-format", "json"),
        *(() if models_dir is None else ("--models-dir", str(models_dir))),
    ]
    with _ended_by_signals():
        with log.open("wb") as file:
            # In its own session, so that Ctrl-C reaches this command alone, which then stops the server.
            process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
        server = LocalServer(process, log)
        try:
            server.wait_until_answering()
            yield server
        finally:
            server.stop()


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Leave the block, when a terminal closes or somebody ends this process, as an exception does: with its cleanup."""

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    signals = (signal.SIGTERM, signal.SIGHUP)
    heard = [each for each in signals if signal.getsignal(each) != signal.SIG_IGN]  # nohup ignores SIGHUP
    before = {number: signal.signal(number, end) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
