"""Logs: the names of events, the shape of a line, and the one line that each job gets.

JSON lines on stderr, or colours on a terminal; standard-library loggers (uvicorn,
diffusers) pass through the same processors. Two promises: no link's signature is ever
logged, and a prompt is logged as length and hash unless the settings ask for its text. A flood of
requests fills no disk: repeated lines are sampled. A pipe that nobody reads stops no process: lines
that do not fit are dropped and counted.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
import select
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, MutableMapping
from enum import StrEnum
from typing import Any, Final, TextIO

import structlog
from structlog.typing import ExcInfo, Processor

from anime_studio import __version__
from anime_studio.core.jobs import JobRecord
from anime_studio.core.plain_text import visible
from anime_studio.settings import Settings

_SIGNATURE = re.compile(r"(signature(?:=|%3D))[A-Za-z0-9_%-]+", re.IGNORECASE)

SAMPLE_WINDOW_S: Final = 60.0
MOST_ANSWERS: Final = 600
"""Lines in a window for the successful answers of one route."""
MOST_REPEATS: Final = 10
"""Lines in a window for anything else that repeats: one kind of refusal, one warning of a library."""
_MOST_KEYS: Final = 1000
_PIPE_BUF: Final = 4096
"""A pipe that can be written to has room for so much (POSIX; Linux pipe(7))."""
_STALL_S: Final = 0.1

_log = structlog.get_logger(__name__)


class LogEvent(StrEnum):
    """Name of a log line: a noun and what happened to it; values go in the line's fields."""

    # Server
    SERVER_STARTED = "server.started"  # the server listens; `url` is its address
    SERVER_STOPPED = "server.stopped"  # it has stopped in good order

    OPERATOR_ACTED = "operator.acted"  # the operator did `action`; `changed` jobs or clips were concerned

    # Worker
    WORKER_SPAWNED = "worker.spawned"  # the supervisor started a worker process
    WORKER_READIED = (
        "worker.readied"  # the worker has loaded its engine; `model_revision` names the checkpoint
    )
    WORKER_BLOCKED = "worker.blocked"  # the worker cannot take work; `detail` says why, `command` fixes it
    WORKER_EXITED = "worker.exited"  # the worker process ended unasked; it is started again
    WORKER_KILLED = "worker.killed"  # the worker did not stop in time; `reason` says when
    WORKER_HUNG = "worker.hung"  # the worker was silent too long in `stage` and is killed
    SUPERVISOR_FAILED = "supervisor.failed"  # watching the worker raised; the worker is started again

    TEXT_AHEAD_FAILED = (
        "text_ahead.failed"  # a queued job's text could not be encoded early; the job tries itself
    )

    # Modal's GPU container
    GENERATOR_READY = (
        "generator.ready"  # the container can take work; `start_kind` and `start_s` say how it became ready
    )
    GENERATOR_BLOCKED = (
        "generator.blocked"  # the container cannot take work: each of its jobs fails with `detail`
    )
    GENERATOR_BAD_RESTORE = (
        "generator.bad_restore"  # a memory snapshot was restored wrongly; the model is loaded again
    )
    GENERATOR_SLEEP_FAILED = "generator.sleep_failed"  # the weights did not fit into host memory
    GENERATOR_WEIGHTS_FAILED = (
        "generator.weights_failed"  # a CPU snapshot holds no weights; `detail` says why
    )
    WEIGHTS_SWAPPING = "weights.swapping"  # other weights are named: an idle container loads `revision`
    WEIGHTS_REFUSED = "weights.refused"  # the weights that are named cannot be used; the old ones go on
    WEIGHTS_NOT_SEEN = "weights.not_seen"  # the Volume could not be read anew; what was mounted goes on

    KERNELS_KEPT = "kernels.kept"  # what this container compiled is on the Volume for the next start
    KERNELS_NOT_KEPT = "kernels.not_kept"  # it could not be stored; the next start compiles again
    KERNELS_REFUSED = "kernels.refused"  # kept kernels are damaged or cannot be read; they are compiled anew

    # Modal's text container
    TEXT_READY = "text.ready"  # the container can encode; `revision` names the checkpoint
    TEXT_BLOCKED = "text.blocked"  # the container cannot encode: each call answers `detail`
    TEXT_LOST = "text.lost"  # a render's text did not come; it is asked for once more
    TEXT_NOT_STARTED = "text.not_started"  # the job's text was not started with it; the render asks for it

    # Engine
    ENGINE_ACCELERATION_REFUSED = (
        "engine.acceleration_refused"  # the device refused a fast path; the others are kept
    )
    ENGINE_PREPARED_REFUSED = (
        "engine.prepared_refused"  # a prepared checkpoint is damaged; the source checkpoint is loaded
    )

    # Jobs
    JOB_LAUNCHED = "job.launched"  # a Modal call was made for the job
    JOB_CALL_UNKNOWN = "job.call_unknown"  # the id of the job's Modal call could not be stored
    JOB_STOP_FAILED = "job.stop_failed"  # Modal did not take the cancel; the worker sees it at its next step
    JOB_STARTED = "job.started"  # a worker starts the job
    JOB_FINISHED = "job.finished"  # the canonical line of a job that has ended, whatever its outcome
    JOB_REQUEUED = "job.requeued"  # the worker stops, the job waits again
    JOB_ENGINE_CRASHED = "job.engine_crashed"  # an exception that nobody expected, with its traceback
    JOB_PROGRESS_LOST = "job.progress_lost"  # a step could not be saved; the job goes on
    JOB_END_DELAYED = "job.end_delayed"  # a job's end could not be saved yet; it is tried again
    JOB_LEFT_FOR_RECOVERY = "job.left_for_recovery"  # a job's end could not be saved: the job will run again
    DEADLINES_INTERRUPTED = (
        "deadlines.interrupted"  # the database could not be read for deadlines; it is tried again
    )
    JOBS_SWEPT = "jobs.swept"  # old job records were removed
    FEED_INTERRUPTED = (
        "feed.interrupted"  # the database could not be read for new versions; it is tried again
    )

    # Clips
    CLIP_DAMAGED = "clip.damaged"  # a clip's file failed its check and is no longer served
    CLIPS_SWEPT = "clips.swept"  # clips were removed, for age or for room
    ORPHANS_REMOVED = "orphans.removed"  # files of a crash were removed
    SIGNING_KEY_CREATED = "signing_key.created"  # the data folder got its own signing key

    # HTTP
    REQUEST_ANSWERED = "request.answered"  # one for each request, when its answer is complete
    REQUEST_CUT = "request.cut"  # an answer that could not be sent to its end
    REQUEST_FAILED = "request.failed"  # an exception that nobody expected, with its traceback
    CLIENT_SIGNAL = "client.signal"  # one for each signal that a client sent


_REPEATED: Final = frozenset({LogEvent.REQUEST_ANSWERED, LogEvent.REQUEST_CUT, LogEvent.CLIENT_SIGNAL})
"""Events that clients can cause at will."""


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
        [escape_controls, structlog.dev.ConsoleRenderer(exception_formatter=_traceback)]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = UnblockedHandler(sys.stderr)
    handler.addFilter(Sampler())
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


class Sampler(logging.Filter):
    """Passes a bounded number of repeated lines in each window; the next line that passes counts the others.

    Lines repeat when clients make them: answers, signals, and what libraries warn of. All other events pass.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._windows: OrderedDict[Hashable, tuple[float, int]] = OrderedDict()  # begin and lines so far

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether *record* is written; see `logging.Filter`."""
        key, most = _sample_key(record)
        if key is None:
            return True
        begun, lines = self._windows.get(key, (-SAMPLE_WINDOW_S, 0))
        now = self._clock()
        if now - begun < SAMPLE_WINDOW_S:
            self._windows[key] = begun, lines + 1
            return lines < most
        self._windows[key] = now, 1
        self._windows.move_to_end(key)
        if len(self._windows) > _MOST_KEYS:
            self._windows.popitem(last=False)
        if lines > most:
            _add_count(record, lines - most)
        return True


def _sample_key(record: logging.LogRecord) -> tuple[Hashable, int]:
    if not isinstance(record.msg, dict):
        return (record.name, record.msg), MOST_REPEATS
    event = record.msg
    if event.get("event") not in _REPEATED:
        return None, 0
    names = ("event", "method", "route", "status", "error_code", "kind", "source")
    answered = event["event"] == LogEvent.REQUEST_ANSWERED and event.get("status", 500) < 400
    return tuple(event.get(name) for name in names), MOST_ANSWERS if answered else MOST_REPEATS


def _add_count(record: logging.LogRecord, lines: int) -> None:
    if isinstance(record.msg, dict):
        record.msg = record.msg | {"not_logged": lines}


class UnblockedHandler(logging.StreamHandler[TextIO]):
    """Writes lines to a stream and never waits for its reader: what does not fit is dropped and counted."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._descriptor = _descriptor_of(stream)
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line of *record*, or drop it."""
        if self._descriptor is None:
            super().emit(record)
            return
        try:
            line = f"{self.format(record)}\n".encode(errors="backslashreplace")
        except Exception:  # noqa: BLE001  a fault in one line must not stop its caller
            self.handleError(record)
            return
        if self._dropped:
            line = f"{self._dropped} log lines were dropped: nobody read them\n".encode() + line
        # After a drop the reader has had its chance: the next line does not wait.
        stall_s = 0.0 if self._dropped else _STALL_S
        self._dropped = 0 if _write(self._descriptor, line, stall_s) else self._dropped + 1


def _descriptor_of(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, AttributeError):  # not a file, as under pytest
        return None


def _write(descriptor: int, line: bytes, stall_s: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    for begin in range(0, len(line), _PIPE_BUF):
        if not poll.poll(stall_s * 1000):
            return False
        try:
            os.write(descriptor, line[begin : begin + _PIPE_BUF])
        except OSError:  # the reader is gone
            return False
    return True


def escape_controls(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Show control characters in what clients sent as escapes, lest they drive the operator's terminal; JSON does so."""
    return {
        key: visible(value, lines=False) if isinstance(value, str) else value for key, value in event.items()
    }


def _traceback(out: TextIO, exc_info: ExcInfo) -> None:
    text = io.StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    out.write(visible(text.getvalue()))


def redact(_logger: Any, _method: str, line: Any) -> str:
    """Replace the signature of every link in a rendered line; the last processor."""
    return _SIGNATURE.sub(r"\1[redacted]", str(line))


def log_job(job: JobRecord, *, log_prompts: bool = False) -> None:
    """Write the canonical line of a job that has ended."""
    _log.info(LogEvent.JOB_FINISHED, **describe_job(job, log_prompts=log_prompts))


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
        "resolution": spec.resolution.value,
        "num_frames": spec.num_frames,
        "num_inference_steps": spec.num_inference_steps,
        "guidance_scale": spec.guidance_scale,
        "seed": spec.seed,
        "recipe": spec.recipe,
        "model_revision": spec.model_revision,
        "decoder": spec.decoder,
        "size_bytes": clip.size_bytes if clip else None,
        "cost_usd": job.cost.usd if job.cost else None,
        "app_version": __version__,
        **_prompt_fields(spec.prompt, log_prompts=log_prompts),
        **_requester_fields(job.requested_by, log_prompts=log_prompts),
    }


def _prompt_fields(prompt: str, *, log_prompts: bool) -> Mapping[str, Any]:
    digest = hashlib.sha256(prompt.encode()).hexdigest()[:12]
    fields: dict[str, Any] = {"prompt_chars": len(prompt), "prompt_sha256": digest}
    return fields | {"prompt": prompt} if log_prompts else fields


def _requester_fields(name: str | None, *, log_prompts: bool) -> Mapping[str, Any]:
    if name is None:
        return {}
    fields: dict[str, Any] = {"requested_by_sha256": hashlib.sha256(name.encode()).hexdigest()[:12]}
    return fields | {"requested_by": name} if log_prompts else fields


def _named(component: str) -> Processor:
    def add(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.setdefault("component", component)
        return event

    return add
