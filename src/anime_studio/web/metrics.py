"""The Prometheus series of this process; for all processes together, read log lines and job records.

`/metrics` counts jobs from their records, each job once. A record says how its job ended,
whichever process rendered or cancelled it, and a job that ends between two scrapes is counted
at the second. Jobs that ended before this process started are not counted.

Names and units follow https://prometheus.io/docs/practices/naming/: base units, and `_total` on
counters, which the client library appends. The edges of the job buckets include 150 s (Modal's
HTTP limit) and 90 s ($0.02 of an L4). Ids are never labels, and route labels are templates, so
the number of series is bounded.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter as Tally
from collections import deque
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from anime_studio.core.jobs import JobRecord
from anime_studio.core.studio import Studio
from common.schemas import ClientSignal, SignalKind, StartKind

JOB_BUCKETS_S = (1, 2, 5, 10, 20, 30, 45, 60, 90, 120, 150, 180, 240, 300, 600)
HTTP_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_STAGES = ("start", "text", "denoise", "decode", "upscale", "store", "total")
_METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "OPTIONS"})
_MOST_JOBS_PER_SCRAPE = 10_000
_SIGNALS_REMEMBERED = 10_000
_COUNTED_REMEMBERED = 20_000

_PREAMBLE = (
    "# Series of one process. Another process or container of the same deployment counts the same jobs:\n"
    "# do not add anime_generate_*, anime_queue_*, anime_cold_* or anime_estimated_* over instances.\n"
)


class Metrics:
    """The series, and a method for each event that changes them."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        counter = partial(Counter, registry=self._registry)
        gauge = partial(Gauge, registry=self._registry)
        histogram = partial(Histogram, registry=self._registry)
        self._counted_up_to = 0
        self.expired_links = 0
        """Requests for clips by links that had expired."""
        self._counted: dict[str, None] = {}
        self._recent_signals: deque[tuple[float, SignalKind]] = deque(maxlen=_SIGNALS_REMEMBERED)
        self._counting = asyncio.Lock()
        self._requests = counter(
            "anime_generate_requests",
            "Jobs by how they ended, and requests refused before they became one.",
            ("outcome", "error_code"),
        )
        self._durations = histogram(
            "anime_generate_duration_seconds",
            "Seconds of ended jobs in each stage, by size, 480p or 1080p; total is from acceptance to the end.",
            ("stage", "resolution"),
            buckets=JOB_BUCKETS_S,
        )
        self._queue_wait = histogram(
            "anime_queue_wait_seconds",
            "Seconds that ended jobs waited for a worker.",
            buckets=JOB_BUCKETS_S,
        )
        self._cold_starts = counter(
            "anime_cold_starts",
            "Ended jobs whose worker was not warm, by how it came to be ready.",
            ("start_kind",),
        )
        self._in_progress = gauge("anime_jobs_in_progress", "Jobs being drawn.")
        self._backlog = gauge("anime_backlog", "Jobs waiting for a worker.")
        self._progress_age = gauge(
            "anime_worker_progress_age_seconds",
            "Seconds since the worker was last heard from; NaN if unknown.",
        )
        self._cost = counter("anime_estimated_cost_usd", "US dollars on the receipts of ended jobs.")
        self._budget_used = gauge(
            "anime_budget_used_ratio", "What was spent of the budget of this day or month, UTC.", ("period",)
        )
        self._outputs = counter("anime_output_requests", "Requests for clip files, by result.", ("result",))
        self._signals = counter("anime_client_signals", "What bots, overlays and pages reported.", ("kind",))
        self._http = histogram(
            "anime_http_request_duration_seconds",
            "Seconds until an answer was complete, event streams included.",
            ("method", "route", "status"),
            buckets=HTTP_BUCKETS_S,
        )

    def count_jobs_after(self, sequence: int) -> None:
        """Count only jobs that end after the one with this sequence number; to be called at the start."""
        self._counted_up_to = sequence

    def observe_http(self, method: str, route: str, status: int, duration_s: float) -> None:
        """Count a request and its seconds; *route* is a template."""
        known = method if method in _METHODS else "other"
        self._http.labels(known, route, str(status)).observe(duration_s)

    def count_refusal(self, code: str) -> None:
        """Count a `POST /generate` that became no job."""
        self._requests.labels("refused", code).inc()

    def count_output(self, result: str) -> None:
        """Count a request for a clip's file."""
        self._outputs.labels(result).inc()
        self.expired_links += result == "url_expired"

    def count_signal(self, signal: ClientSignal) -> None:
        """Count a client's signal."""
        self._signals.labels(signal.kind.value).inc()
        self._recent_signals.append((time.monotonic(), signal.kind))

    def signals_within(self, window_s: float) -> Tally[SignalKind]:
        """Return how often each kind was reported to this process, among its last 10,000 signals."""
        since = time.monotonic() - window_s
        return Tally(kind for at, kind in self._recent_signals if at >= since)

    async def expose(self, studio: Studio) -> bytes:
        """Return all series in Prometheus' text format, jobs counted up to now.

        Raises:
            StorageError: The records cannot be read.
        """
        async with self._counting:  # two scrapes at once would count a job twice
            await self._count_ended_jobs(studio)
        readiness = await studio.readiness()
        self._in_progress.set(readiness.running)
        self._backlog.set(readiness.queued)
        spend = await studio.spend()
        for period, usd, budget_usd in (
            ("day", spend.today_usd, spend.budget_usd_per_day),
            ("month", spend.month_usd, spend.budget_usd_per_month),
        ):
            if budget_usd is not None:
                self._budget_used.labels(period).set(usd / budget_usd)
        age_s = readiness.progress_age_s
        self._progress_age.set(float("nan") if age_s is None else age_s)
        return _PREAMBLE.encode() + generate_latest(self._registry)

    async def _count_ended_jobs(self, studio: Studio) -> None:
        for ended in await studio.ended_after(self._counted_up_to, _MOST_JOBS_PER_SCRAPE):
            self._counted_up_to = max(self._counted_up_to, ended.sequence)
            if ended.job.job_id not in self._counted:  # a store without a counter returns some twice
                self._counted[ended.job.job_id] = None
                self._count(ended.job)
        while len(self._counted) > _COUNTED_REMEMBERED:
            del self._counted[next(iter(self._counted))]

    def _count(self, job: JobRecord) -> None:
        self._requests.labels(job.state.value, job.error.code if job.error else "").inc()
        for stage in _STAGES:
            seconds = getattr(job.timings, f"{stage}_s")
            if seconds is not None:
                self._durations.labels(stage, job.spec.resolution.landscape).observe(seconds)
        if job.timings.queue_s is not None:
            self._queue_wait.observe(job.timings.queue_s)
        if job.start_kind not in (None, StartKind.WARM):
            self._cold_starts.labels(job.start_kind).inc()
        if job.cost is not None:
            self._cost.inc(job.cost.usd)
