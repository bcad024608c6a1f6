"""What the control plane costs: accept-to-202, job lookup, and clip bytes against a plain `FileResponse`.

Real server processes over loopback sockets, no worker: jobs stay queued, so that nothing but
HTTP, the rules and SQLite is measured. Clip bytes come from `/outputs` and from Starlette's
`FileResponse` over the same bytes, in turns, so that both see the same noise of the machine.

    python -m benchmarks.web.control_plane [--requests 500] [--out benchmarks/results/control_plane.json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Route

from anime_studio.core.errors import UnavailableError
from anime_studio.core.jobs import Asset, JobRecord, RenderedClip
from anime_studio.core.policy import Policy
from anime_studio.core.readiness import not_ready
from anime_studio.core.recipes import TINY_RANDOM
from anime_studio.core.signing import UrlSigner
from anime_studio.core.studio import Studio
from anime_studio.on_laptop.clips import FolderClips
from anime_studio.on_laptop.connections import BoundedConfig, max_connections, raise_descriptor_limit
from anime_studio.on_laptop.database import prepare
from anime_studio.on_laptop.job_store import SqliteJobs
from anime_studio.settings import Settings, WebOptions
from anime_studio.telemetry import configure_logging
from anime_studio.web.app import create_app
from benchmarks import RESULTS, ROOT
from common.schemas import Readiness

CLIP_BYTES = 1_500_000
"""About a five-second 480p clip: the example in the contract."""
CLIP_ID = f"c_{'0' * 32}"
KEY = "benchmark-" + "k" * 32
TURNS, DOWNLOADS_IN_A_TURN, WARM_UP = 10, 20, 20


class NoWorker:
    """A launcher whose jobs stay queued."""

    async def launch(self, job: JobRecord) -> None:
        """Start nothing."""

    async def stop(self, job: JobRecord) -> None:
        """Stop nothing."""

    async def warm(self) -> None:
        """Warm nothing."""

    async def readiness(self) -> Readiness:
        """Say that there is no worker."""
        return not_ready(UnavailableError("a benchmark renders nothing"))


def serve(kind: str, folder: Path) -> None:
    """Serve the studio, or the plain file, and print the port."""
    # As the real server logs: JSON lines on standard error.
    configure_logging(Settings(log_format="json"), component="server")
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as the real server does
    print(listener.getsockname()[1], flush=True)
    app = _plain_app(folder) if kind == "plain" else _studio_app(folder)
    uvicorn.Server(_config(kind, app)).run(sockets=[listener])


def _config(kind: str, app: Any) -> uvicorn.Config:
    if kind == "plain":
        return uvicorn.Config(app, log_config=None, access_log=False)
    connections = max_connections(raise_descriptor_limit())
    return BoundedConfig(app, max_connections=connections, log_config=None, access_log=False)


def _studio_app(folder: Path) -> Any:
    @asynccontextmanager
    async def open_studio() -> AsyncIterator[Studio]:
        async with SqliteJobs(folder / "jobs.sqlite3") as jobs:
            yield Studio(
                recipe=TINY_RANDOM,
                jobs=jobs,
                launcher=NoWorker(),
                clips=FolderClips(folder / "clips"),
                signer=UrlSigner([KEY]),
                policy=Policy(max_queued_jobs=1_000_000),
            )

    return create_app(open_studio, WebOptions(recipe=TINY_RANDOM.name))


def _plain_app(folder: Path) -> Starlette:
    async def plain(_: Request) -> FileResponse:
        return FileResponse(folder / "plain.mp4", media_type="video/mp4")

    return Starlette(routes=[Route("/plain.mp4", plain)])


@contextmanager
def running(kind: str, folder: Path) -> Iterator[httpx.Client]:
    """Run one server in its own process."""
    command = [sys.executable, "-m", "benchmarks.web.control_plane", "--serve", kind, "--folder", str(folder)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT
    )
    try:
        assert process.stdout is not None
        base_url = f"http://127.0.0.1:{int(process.stdout.readline())}"
        with httpx.Client(base_url=base_url, timeout=60, trust_env=False) as client:
            yield client
    finally:
        process.terminate()
        process.wait(30)


def prepare_folder(folder: Path) -> None:
    """Put a database, one published clip and the same bytes beside it into *folder*."""
    prepare(folder / "jobs.sqlite3")
    scratch = folder / "scratch"
    scratch.mkdir()
    for name, size_bytes in (("clip.mp4", CLIP_BYTES), ("poster.jpg", 20_000)):
        (scratch / name).write_bytes(secrets.token_bytes(size_bytes))
    (folder / "plain.mp4").write_bytes((scratch / "clip.mp4").read_bytes())
    rendered = RenderedClip(
        video=scratch / "clip.mp4", poster=scratch / "poster.jpg", width=832, height=480, num_frames=81, fps=16,
        text_s=0.0, denoise_s=0.0, decode_s=0.0,
    )  # fmt: skip
    FolderClips(folder / "clips").publish(CLIP_ID, rendered)


def latencies_ms(call: Callable[[], object], count: int) -> dict[str, float]:
    """Return p50 and p99 in milliseconds of *count* calls, after a warm-up."""
    for _ in range(WARM_UP):
        call()
    taken = []
    for _ in range(count):
        begun = time.perf_counter()
        call()
        taken.append((time.perf_counter() - begun) * 1e3)
    cuts = statistics.quantiles(taken, n=100, method="inclusive")
    return {"p50": round(cuts[49], 3), "p99": round(cuts[98], 3), "count": count}


def bytes_per_second(client: httpx.Client, url: str) -> float:
    """Return the rate of one turn of whole downloads."""
    begun = time.perf_counter()
    for _ in range(DOWNLOADS_IN_A_TURN):
        answer = client.get(url)
        assert answer.status_code == 200, answer.text
        assert len(answer.content) == CLIP_BYTES
    return DOWNLOADS_IN_A_TURN * CLIP_BYTES / (time.perf_counter() - begun)


def measure(requests: int) -> dict[str, Any]:
    """Return the figures."""
    with tempfile.TemporaryDirectory(prefix="anime-studio-bench-") as name:
        folder = Path(name)
        prepare_folder(folder)
        link = UrlSigner([KEY]).sign(CLIP_ID, Asset.VIDEO, datetime.now(UTC) + timedelta(hours=1))
        with running("studio", folder) as studio, running("plain", folder) as plain:
            job_ids: list[str] = []

            def accept() -> None:
                answer = studio.post(
                    "/generate", json={"prompt": "a cat"}, headers={"Prefer": "respond-async"}
                )
                assert answer.status_code == 202, answer.text
                job_ids.append(answer.json()["job_id"])

            accepted = latencies_ms(accept, requests)
            looked_up = latencies_ms(
                lambda: studio.get(f"/jobs/{secrets.choice(job_ids)}").raise_for_status(), requests
            )
            rates: dict[str, list[float]] = {"outputs": [], "file_response": []}
            for _ in range(TURNS):
                rates["outputs"].append(bytes_per_second(studio, link))
                rates["file_response"].append(bytes_per_second(plain, "/plain.mp4"))
    medians = {kind: round(statistics.median(found)) for kind, found in rates.items()}
    return {
        "accept_to_202_ms": accepted,
        "job_lookup_ms": looked_up | {"jobs_in_store": len(job_ids)},
        "clip_bytes_per_s": medians | {"ratio": round(medians["outputs"] / medians["file_response"], 3)},
    }


def where() -> dict[str, Any]:
    """Name device, versions and commit."""
    described = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    commit = subprocess.run(described, capture_output=True, text=True, cwd=ROOT, check=False)
    packages = ("anime-studio", "fastapi", "starlette", "uvicorn", "httpx", "pydantic")
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": f"{platform.machine()}, {os.cpu_count()} logical cores, {platform.system()}",
        "load_average_1m": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in packages},
        "commit": commit.stdout.strip() or None,
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--out", type=Path, default=RESULTS / "control_plane.json")
    parser.add_argument("--serve", choices=("studio", "plain"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.folder)
        return
    result = json.dumps(where() | measure(arguments.requests), indent=2)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(result + "\n", encoding="utf-8")
    print(result)


if __name__ == "__main__":
    main()
