"""What a deployment decides for its callers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from anime_studio.core.decoders import Decoder
from anime_studio.core.pricing import UNBILLED, Machine


@dataclass(frozen=True, slots=True)
class Policy:
    """Limits and prices of one deployment.

    Attributes:
        max_queued_jobs: A request that would be one more is refused.
        url_ttl: How long a signed link lives.
        clip_ttl: How long a clip is kept, and so how long its watch link lives.
        decoder: What decodes clips.
        compose_prompts: Whether a short prompt is extended; see `core.prompts`.
        machine: What a job is billed for.
        budget_usd_per_clip: A clip that is projected to cost more is refused; None refuses none.
    """

    max_queued_jobs: int = 32
    url_ttl: timedelta = timedelta(seconds=900)
    clip_ttl: timedelta = timedelta(hours=24)
    decoder: Decoder = Decoder.FULL
    compose_prompts: bool = True
    machine: Machine = UNBILLED
    budget_usd_per_clip: float | None = None
