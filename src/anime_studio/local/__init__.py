"""Composition root of a laptop: the HTTP server here, one supervised worker process beside it.

`server` serves and keeps jobs, `supervisor` keeps the worker alive, `worker_process` is
what runs in it, `data_dir` is the folder both share, `status` is what the worker says.
"""

from __future__ import annotations

from anime_studio.settings import Settings


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then stop in good order; see `server.serve`."""
    from anime_studio.local.server import serve as serve_until_stopped  # the worker needs no FastAPI

    serve_until_stopped(settings)
