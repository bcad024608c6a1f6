"""What a flood does: 1,000 clients at once that submit, follow, poll and read ranges, in two waves.

A real server process with the laptop's bounds on connections and its log, at a soft limit of 1,024
open files; no worker: jobs stay queued. Counted are requests without an answer and answers that are
errors, the server's memory after each wave, and how long `/health` takes meanwhile. The clients run
on the same machine and take their share of it, so times are those of a busy machine.

    python -m benchmarks.web.flood [--clients 1000] [--out benchmarks/results/flood.json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from anime_studio.core.jobs import Asset
from anime_studio.core.signing import UrlSigner
from anime_studio.on_laptop.connections import raise_descriptor_limit
from benchmarks import RESULTS, ROOT
from benchmarks.web.control_plane import CLIP_ID, KEY, prepare_folder, where

USUAL_SOFT_LIMIT = 1024
PATIENCE_S = 120.0
HEALTH_EVERY_S = 0.05


class Wave:
    """One wave of clients; counts what each of them got."""

    def __init__(self, base_url: str, link: str) -> None:
        self.answers: Counter[str] = Counter()
        self.health_s: list[float] = []
        self._base_url, self._link = base_url, link

    async def run(self, clients: int) -> None:
        """Let all clients begin at once and wait for their end."""
        command = [sys.executable, "-m", "benchmarks.web.flood", "--health", self._base_url]
        probe = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT
        )
        assert probe.stdout is not None
        await probe.stdout.readline()  # it has begun
        await asyncio.gather(*(self._client() for _ in range(clients)))
        times, _ = await probe.communicate(b"")  # ends its standard input; without bytes Python 3.11 does not
        self.health_s = json.loads(times)

    async def _client(self) -> None:
        async with httpx.AsyncClient(base_url=self._base_url, timeout=PATIENCE_S, trust_env=False) as http:
            try:
                answer = await http.post(
                    "/generate", json={"prompt": "a cat"}, headers={"Prefer": "respond-async"}
                )
                self._count("submit", answer)
                job = f"/jobs/{answer.json()['job_id']}"
                async with http.stream("GET", f"{job}/events") as stream:
                    self._count("follow", stream)
                    await anext(stream.aiter_bytes())
                self._count("poll", await http.get(job))
                self._count("range", await http.get(self._link, headers={"Range": "bytes=0-65535"}))
            except (httpx.HTTPError, KeyError, StopAsyncIteration) as error:
                self.answers[f"unanswered: {type(error).__name__}"] += 1

    def _count(self, name: str, answer: httpx.Response) -> None:
        self.answers[f"{name} {answer.status_code}"] += 1

    def figures(self) -> dict[str, Any]:
        """Return what was counted."""
        unanswered = sum(count for name, count in self.answers.items() if name.startswith("unanswered"))
        good = {"submit 202", "follow 200", "poll 200", "range 206"}
        cuts = statistics.quantiles(self.health_s, n=100, method="inclusive")
        return {
            "answers": dict(sorted(self.answers.items())),
            "unanswered": unanswered,
            "errors": sum(self.answers.values()) - unanswered - sum(self.answers[name] for name in good),
            "health_s": {"p50": round(cuts[49], 3), "p99": round(cuts[98], 3), "count": len(self.health_s)},
        }


def watch_health(base_url: str) -> None:
    """Ask for `/health` until standard input ends, in a process of its own: the clients' one is busy."""
    print(flush=True)
    times = []
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    with httpx.Client(base_url=base_url, timeout=PATIENCE_S, trust_env=False) as http:
        while not ended.wait(HEALTH_EVERY_S):
            begun = time.perf_counter()
            http.get("/health").raise_for_status()
            times.append(time.perf_counter() - begun)
    print(json.dumps(times))


def measure(clients: int) -> dict[str, Any]:
    """Return the figures of two waves."""
    with tempfile.TemporaryDirectory(prefix="anime-studio-bench-") as name:
        folder = Path(name)
        prepare_folder(folder)
        link = UrlSigner([KEY]).sign(CLIP_ID, Asset.VIDEO, datetime.now(UTC) + timedelta(hours=1))
        with (folder / "log").open("wb") as log:
            command = ["-m", "benchmarks.web.control_plane", "--serve", "studio", "--folder", name]
            process = subprocess.Popen(
                [sys.executable, *command], stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT,
                preexec_fn=_usual_limit,
            )  # fmt: skip
        try:
            assert process.stdout is not None
            base_url = f"http://127.0.0.1:{int(process.stdout.readline())}"
            waves, memory_mib = [], []
            for _ in range(2):
                wave = Wave(base_url, link)
                asyncio.run(wave.run(clients))
                waves.append(wave.figures())
                memory_mib.append(_resident_mib(process.pid))
        finally:
            process.terminate()
            process.wait(30)
        log_bytes = (folder / "log").stat().st_size
    return {
        "clients": clients,
        "soft_limit_of_open_files": USUAL_SOFT_LIMIT,
        "waves": waves,
        "server_memory_mib": memory_mib,
        "memory_second_over_first": round(memory_mib[1] / memory_mib[0], 3),
        "log_bytes": log_bytes,
    }


def _usual_limit() -> None:
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (USUAL_SOFT_LIMIT, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    )


def _resident_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    (kib,) = (int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
    return round(kib / 1024, 1)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=RESULTS / "flood.json")
    parser.add_argument("--health", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.health:
        watch_health(options.health)
        return
    raise_descriptor_limit()  # the clients' own
    note = "Clients, probe and server share the cores: times are upper bounds; compare counts and ratios."
    result = where() | {"note": note} | measure(options.clients)
    text = json.dumps(result, indent=2) + "\n"
    print(text, end="")
    options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
