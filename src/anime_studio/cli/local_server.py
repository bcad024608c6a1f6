"""A server of our own on a free loopback port, for as long as a command needs it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from anime_studio.client import StudioClient
from anime_studio.core.errors import UnavailableError
from common.schemas import Readiness

STARTED: Final = "server.started"
LOOK_AGAIN_S: Final = 0.2
STOP_WITHIN_S: Final = 30.0


class LocalServer:
    """The running server: its address and its log."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log
        self.url = ""

    def wait_until_answering(self, timeout_s: float) -> None:
        """Wait until it listens.

        Raises:
            UnavailableError: It ended, or did not listen in time; the detail has its last words.
        """
        until = time.monotonic() + timeout_s
        while not (url := self._told_url()):
            self._raise_if_over(until)
            time.sleep(LOOK_AGAIN_S)
        self.url = url

    def wait_until_ready(self, timeout_s: float) -> Readiness:
        """Wait until a worker can take work; the engine takes its time to load.

        Raises:
            UnavailableError: It ended, or was not ready in time.
        """
        until = time.monotonic() + timeout_s
        with StudioClient(self.url) as studio:
            while not (readiness := studio.ready()).ready:
                self._raise_if_over(until, readiness.detail)
                time.sleep(LOOK_AGAIN_S)
        return readiness

    def _told_url(self) -> str | None:
        for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines():
            if STARTED in line and line.startswith("{"):
                url: str = json.loads(line)["url"]
                return url
        return None

    def _raise_if_over(self, until: float, detail: str = "it does not listen yet") -> None:
        if self.process.poll() is None and time.monotonic() < until:
            return
        last = "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        state = "is not ready" if self.process.returncode is None else f"ended with {self.process.returncode}"
        raise UnavailableError(f"the local server {state} ({detail}); the end of its log {self.log}:\n{last}")


@contextmanager
def running_server(
    data_dir: Path, *, recipe: str, models_dir: Path | None = None, start_within_s: float = 120.0
) -> Iterator[LocalServer]:
    """Run `anime-studio serve` on a free loopback port with its own folder; stop it in good order."""
    data_dir.mkdir(parents=True, exist_ok=True)
    log = data_dir / "server.log"
    command = [
        *(sys.executable, "-m", "anime_studio.cli", "serve", "--host", "127.0.0.1", "--port", "0"),
        *("--data-dir", str(data_dir), "--recipe", recipe, "--log-format", "json"),
        *(() if models_dir is None else ("--models-dir", str(models_dir))),
    ]
    with log.open("wb") as file:
        # Its own session: Ctrl-C is ours to handle; we stop it in good order.
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
    server = LocalServer(process, log)
    try:
        server.wait_until_answering(start_within_s)
        yield server
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
