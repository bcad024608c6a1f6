"""What is told in logs: event names, the shape of a line, and the one line that each job gets.

JSON lines on stderr, or colours on a terminal; standard-library loggers (uvicorn,
diffusers) pass through the same processors. Two promises: no link's signature is ever
logged, and a prompt is logged as length and hash unless the settings ask for its text.
"""

from __future__ import annotations

import hashlib
import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Final

import structlog
from structlog.typing import Processor

from anime_studio import __version__
from anime_studio.core.jobs import JobRecord
from anime_studio.settings import Settings

SERVER_STARTED: Final = "server.started"
SERVER_STOPPED: Final = "server.stopped"
WORKER_SPAWNED: Final = "worker.spawned"
WORKER_READIED: Final = "worker.readied"
WORKER_BLOCKED: Final = "worker.blocked"
WORKER_EXITED: Final = "worker.exited"
WORKER_KILLED: Final = "worker.killed"
ENGINE_ACCELERATION_REFUSED: Final = "engine.acceleration_refused"
ENGINE_PREPARED_REFUSED: Final = "engine.prepared_refused"
JOB_STARTED: Final = "job.started"
JOB_FINISHED: Final = "job.finished"
JOB_HANDED_BACK: Final = "job.handed_back"
JOB_ENGINE_CRASHED: Final = "job.engine_crashed"
JOB_PROGRESS_LOST: Final = "job.progress_lost"
JOB_END_DELAYED: Final = "job.end_delayed"
JOB_LEFT_FOR_RECOVERY: Final = "job.left_for_recovery"
JOBS_SWEPT: Final = "jobs.swept"
FEED_INTERRUPTED: Final = "feed.interrupted"
CLIP_DAMAGED: Final = "clip.damaged"
CLIPS_SWEPT: Final = "clips.swept"
REMAINS_REMOVED: Final = "remains.removed"
SIGNING_KEY_CREATED: Final = "signing_key.created"

_SIGNATURE = re.compile(r"(signature(?:=|%3D))[A-Za-z0-9_%-]+", re.IGNORECASE)

_log = structlog.get_logger(__name__)


def configure_logging(settings: Settings, *, component: str) -> None:
    """Send every log line of this process to stderr in one shape.

    Args:
        settings: `log_format`: JSON lines, a console, or whichever suits stderr.
        component: `server` or `worker`, in every line.
    """
    console = settings.log_format == "console" or (settings.log_format == "auto" and sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
        _named(component),
    ]
    renderers: list[Processor] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers, redact],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for chatty in ("httpx", "httpcore", "uvicorn.error", "diffusers", "transformers"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def redact(_logger: Any, _method: str, line: Any) -> str:
    """Strike the signature out of every link in a rendered line, wherever it stood; the last processor."""
    return _SIGNATURE.sub(r"\1[redacted]", str(line))


def log_job(job: JobRecord, *, log_prompts: bool = False) -> None:
    """Write the canonical line of a job that has ended."""
    _log.info(JOB_FINISHED, **describe_job(job, log_prompts=log_prompts))


def describe_job(job: JobRecord, *, log_prompts: bool = False) -> Mapping[str, Any]:
    """Return the fields of a job's canonical line; seconds in `timings`, US dollars in `cost_usd`."""
    spec, clip = job.spec, job.clip
    return {
        "job_id": job.job_id,
        "clip_id": job.clip_id,
        "request_id": job.request_id,
        "trace_id": None if job.traceparent is None else job.traceparent.split("-")[1],
        "source": job.source,
        "outcome": job.state.value,
        "error_code": job.error.code if job.error else None,
        "start_kind": job.start_kind.value if job.start_kind else None,
        "attempts": job.attempts,
        "timings": {
            stage: round(seconds, 4) for stage, seconds in job.timings.model_dump(exclude_none=True).items()
        },
        "num_frames": spec.num_frames,
        "num_inference_steps": spec.num_inference_steps,
        "seed": spec.seed,
        "recipe": spec.recipe,
        "model_revision": spec.model_revision,
        "size_bytes": clip.size_bytes if clip else None,
        "cost_usd": job.cost.usd if job.cost else None,
        "app_version": __version__,
        **_prompt_fields(spec.prompt, log_prompts=log_prompts),
    }


def _prompt_fields(prompt: str, *, log_prompts: bool) -> Mapping[str, Any]:
    digest = hashlib.sha256(prompt.encode()).hexdigest()[:12]
    fields: dict[str, Any] = {"prompt_chars": len(prompt), "prompt_sha256": digest}
    return fields | {"prompt": prompt} if log_prompts else fields


def _named(component: str) -> Processor:
    def add(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.setdefault("component", component)
        return event

    return add
