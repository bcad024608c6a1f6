"""What a deployment decides for its callers."""

from __future__ import annotations

from dataclasses import dataclass, field
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
        budget_usd_per_day: A job that would pass it is refused until midnight, UTC; None refuses none.
        budget_usd_per_month: The same for a month.
        scaledown_window_s: For which an idle container is billed after a job.
        text_usd_per_s: What a second of the text container costs, if there is one.
        operator_key: What the operator sends; None: there is no key.
    """

    max_queued_jobs: int = 32
    url_ttl: timedelta = timedelta(seconds=900)
    clip_ttl: timedelta = timedelta(hours=24)
    decoder: Decoder = Decoder.FULL
    compose_prompts: bool = True
    machine: Machine = UNBILLED
    budget_usd_per_clip: float | None = None
    budget_usd_per_day: float | None = None
    budget_usd_per_month: float | None = None
    scaledown_window_s: float = 0.0
    text_usd_per_s: float = 0.0
    operator_key: str | None = field(default=None, repr=False)
