"""What the web layer needs to be told; composition roots fill it from `Settings`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WebOptions:
    """How HTTP behaves in one deployment.

    Attributes:
        recipe: Name of the deployment's recipe, told by `GET /health` without asking the studio.
        version: Version of the service.
        base_url: Public address for links; None means the address each request came to.
        generate_wait_s: Longest wait of `POST /generate`; Modal cuts HTTP at 150 s.
        heartbeat_s: Silence after which an event stream sends a comment, so that proxies keep it open.
        max_body_bytes: Largest request body; the longest legal prompt pair is 16 KB of UTF-8.
    """

    recipe: str
    version: str
    base_url: str | None = None
    generate_wait_s: float = 100.0
    heartbeat_s: float = 15.0
    max_body_bytes: int = 64 * 1024
