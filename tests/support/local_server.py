"""A real server process with a real worker process, that a test may kill."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx

from anime_studio.core.jobs import JobRecord

PATIENCE_S = 240.0
"""A worker imports torch before it is ready: seconds here, minutes on a small machine under load."""
HERE = Path(__file__).parent

T = TypeVar("T")


class LocalServer:
    """Starts, watches, kills and restarts a server on one data folder."""

    def __init__(self, folder: Path, models_dir: Path, **settings: object) -> None:
        self.crash_dir = folder / "crash"
        self.crash_dir.mkdir(parents=True)
        self.log_file = folder / "log"
        chosen = {
            "recipe": "tiny-random",
            "models_dir": models_dir,
            "port": 0,
            "log_format": "json",
            "drain_s": 0,
            "device": "cpu",
        } | settings
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("ANIME_STUDIO_")},
            **{f"ANIME_STUDIO_{key.upper()}": str(value) for key, value in chosen.items()},
            "CRASH_DIR": str(self.crash_dir),
            "OMP_NUM_THREADS": "1",
        }
        self.keep_data_in(folder / "data")
        self.process: subprocess.Popen[bytes]
        self._spawned: list[subprocess.Popen[bytes]] = []
        self.http = httpx.Client()

    def keep_data_in(self, folder: Path) -> None:
        """Choose the data folder; to be called before the start."""
        self.data = folder
        self.environment["ANIME_STUDIO_DATA_DIR"] = str(folder)

    def kill(self) -> None:
        """Leave no process behind, whatever the test came to."""
        self.http.close()
        for process in self._spawned:
            if process.poll() is None:
                process.kill()
                process.wait()

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start a server process; its log is appended to the same file."""
        with self.log_file.open("ab") as log:
            command = [sys.executable, str(HERE / "crash_server.py")]
            process = subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL, env=self.environment)
        self._spawned.append(process)
        return process

    def start(self) -> None:
        """Start the server and wait until it answers."""
        already = len(self.logged("server.started"))
        self.process = self.spawn()

        def address() -> str | None:
            assert self.process.poll() is None, self.log_file.read_text()
            started = self.logged("server.started")[already:]
            return started[0]["url"] if started else None

        self.http = httpx.Client(base_url=self.until(address, "server.started"), timeout=PATIENCE_S)

    def until(self, look: Callable[[], T | None], what: str) -> T:
        """Return the first thing that *look* finds."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            if found := look():
                return found
            time.sleep(0.02)
        raise AssertionError(
            f"waited {PATIENCE_S:g} s in vain for {what}:\n{self.log_file.read_text()[-4000:]}"
        )

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal the server and return its exit code."""
        self.http.close()
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Return the log lines of one event so far."""
        lines = self.log_file.read_bytes().splitlines() if self.log_file.exists() else []
        entries = [json.loads(line) for line in lines if line.startswith(b"{") and line.endswith(b"}")]
        return [entry for entry in entries if entry["event"] == event]

    def post(self, prompt: str, **body: object) -> httpx.Response:
        return self.http.post(
            "/generate",
            json={"prompt": prompt, "duration": 0.5, "seed": 7} | body,
            headers={"Prefer": "respond-async"},
        )

    def submit(self, prompt: str = "a cat on a roof", **body: object) -> dict[str, Any]:
        """Post a prompt and return the job as accepted."""
        answer = self.post(prompt, **body)
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    def job(self, job_id: str) -> dict[str, Any]:
        answer = self.http.get(f"/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def ended(self, job_id: str) -> dict[str, Any]:
        """Wait for the job's end."""
        final = ("succeeded", "failed", "cancelled")
        return self.until(
            lambda: job if (job := self.job(job_id))["state"] in final else None, f"the end of {job_id}"
        )

    def stop_worker_at(self, place: str) -> None:
        """Plan where the worker waits for its death."""
        (self.crash_dir / "at").write_text(place)

    def waiting_worker(self) -> int:
        """Wait until the worker has come to the planned place; return its process id."""
        waiting = self.crash_dir / "waiting"
        self.until(waiting.exists, "the worker to come to its place")
        worker = int(waiting.read_text())
        waiting.unlink()
        return worker

    def let_workers_pass(self) -> None:
        (self.crash_dir / "at").unlink()

    def record(self, job_id: str) -> JobRecord:
        """Read what the store has, attempts included."""
        with sqlite3.connect(self.data / "jobs.sqlite3") as connection:
            (record,) = connection.execute("SELECT record FROM jobs WHERE job_id = ?", (job_id,)).fetchone()
        connection.close()
        return JobRecord.model_validate_json(record)

    def visible_clips(self) -> set[str]:
        return {path.stem for path in (self.data / "clips").glob("*.json")}
