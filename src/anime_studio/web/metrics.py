"""Prometheus series of this process; the truth across processes is log lines and job records.

Jobs are counted from their records when `/metrics` is read, each once: whichever process
drew or cancelled a job, its record says how it ended, and a job that ends while nobody
scrapes is counted at the next scrape. Jobs that ended before this process began are not.

Names, units and buckets: section 5 of the API study in the design notes; the duration edges
include 150 s (Modal's HTTP limit) and 90 s ($0.02 of an L4). Ids are never labels, and
route labels are templates, so the number of series is bounded.
"""

from __future__ import annotations

import asyncio
from collections import Counter as Tally
from collections import deque
from datetime import UTC, datetime, timedelta

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from anime_studio.core.jobs import JobRecord
from anime_studio.core.studio import Studio
from common.schemas import ClientSignal, Readiness, SignalKind, StartKind

JOB_BUCKETS_S = (1, 2, 5, 10, 20, 30, 45, 60, 90, 120, 150, 180, 240, 300, 600)
HTTP_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_STAGES = ("start", "text", "denoise", "decode", "store", "total")
_METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "OPTIONS"})
_MOST_JOBS_PER_SCRAPE = 10_000
_SIGNALS_REMEMBERED = 10_000
_LATE = timedelta(minutes=5)
"""A record may be kept a while after the time it carries: look back this far for late ones."""

_PREAMBLE = (
    "# Series of one process. Another process or container of the same deployment counts the same jobs:\n"
    "# do not add anime_generate_*, anime_queue_*, anime_cold_* or anime_estimated_* over instances.\n"
)


class Metrics:
    """The series and the moments at which they move."""

    def __init__(self, begun: datetime) -> None:
        self._registry = registry = CollectorRegistry()
        self._begun = begun
        self._counted: dict[str, datetime] = {}
        self._recent_signals: deque[tuple[datetime, SignalKind]] = deque(maxlen=_SIGNALS_REMEMBERED)
        self._counting = asyncio.Lock()
        self._requests = Counter(
            "anime_generate_requests",
            "Jobs by how they ended, and requests refused before they became one.",
            ("outcome", "error_code"),
            registry=registry,
        )
        self._durations = Histogram(
            "anime_generate_duration_seconds",
            "Seconds of ended jobs in each stage; total is from acceptance to the end.",
            ("stage",),
            buckets=JOB_BUCKETS_S,
            registry=registry,
        )
        self._queue_wait = Histogram(
            "anime_queue_wait_seconds",
            "Seconds that ended jobs waited for a worker.",
            buckets=JOB_BUCKETS_S,
            registry=registry,
        )
        self._cold_starts = Counter(
            "anime_cold_starts",
            "Ended jobs whose worker was not warm, by how it came to be ready.",
            ("start_kind",),
            registry=registry,
        )
        self._in_progress = Gauge("anime_jobs_in_progress", "Jobs being drawn.", registry=registry)
        self._backlog = Gauge("anime_backlog", "Jobs waiting for a worker.", registry=registry)
        self._cost = Counter(
            "anime_estimated_cost_usd", "US dollars on the receipts of ended jobs.", registry=registry
        )
        self._outputs = Counter(
            "anime_output_requests", "Requests for clip files, by result.", ("result",), registry=registry
        )
        self._signals = Counter(
            "anime_client_signals", "What bots, overlays and pages reported.", ("kind",), registry=registry
        )
        self._http = Histogram(
            "anime_http_request_duration_seconds",
            "Seconds until an answer was complete, event streams included.",
            ("method", "route", "status"),
            buckets=HTTP_BUCKETS_S,
            registry=registry,
        )

    def observe_http(self, method: str, route: str, status: int, duration_s: float) -> None:
        """Note a request; *route* is a template."""
        known = method if method in _METHODS else "other"
        self._http.labels(known, route, str(status)).observe(duration_s)

    def count_refusal(self, code: str) -> None:
        """Note a `POST /generate` that became no job."""
        self._requests.labels("refused", code).inc()

    def count_output(self, result: str) -> None:
        """Note a request for a clip's file."""
        self._outputs.labels(result).inc()

    def count_signal(self, signal: ClientSignal) -> None:
        """Note what a client saw."""
        self._signals.labels(signal.kind.value).inc()
        self._recent_signals.append((datetime.now(UTC), signal.kind))

    def signals_since(self, since: datetime) -> Tally[SignalKind]:
        """Return how often clients reported what to this process, among the last 10,000 signals."""
        return Tally(kind for at, kind in self._recent_signals if at >= since)

    async def expose(self, studio: Studio) -> bytes:
        """Return all series in Prometheus' text format, jobs counted up to now.

        Raises:
            StorageError: The records cannot be read.
        """
        async with self._counting:  # two scrapes at once would count a job twice
            await self._count_ended_jobs(studio, studio.clock.now())
        self._show(await studio.readiness())
        return _PREAMBLE.encode() + generate_latest(self._registry)

    async def _count_ended_jobs(self, studio: Studio, now: datetime) -> None:
        for job in await studio.ended_since(self._begun, _MOST_JOBS_PER_SCRAPE):
            if job.job_id not in self._counted and job.finished_at is not None:
                self._counted[job.job_id] = job.finished_at
                self._count(job)
        self._begun = max(self._begun, now - _LATE)
        self._counted = {job_id: end for job_id, end in self._counted.items() if end >= self._begun}

    def _count(self, job: JobRecord) -> None:
        self._requests.labels(job.state.value, job.error.code if job.error else "").inc()
        for stage in _STAGES:
            seconds = getattr(job.timings, f"{stage}_s")
            if seconds is not None:
                self._durations.labels(stage).observe(seconds)
        if job.timings.queue_s is not None:
            self._queue_wait.observe(job.timings.queue_s)
        if job.start_kind not in (None, StartKind.WARM):
            self._cold_starts.labels(job.start_kind).inc()
        if job.cost is not None:
            self._cost.inc(job.cost.usd)

    def _show(self, readiness: Readiness) -> None:
        self._in_progress.set(readiness.running)
        self._backlog.set(readiness.queued)
