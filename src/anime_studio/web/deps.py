"""What routes are handed: the studio, the caller, where links point."""

from __future__ import annotations

import re
from typing import Annotated

import structlog
from fastapi import Depends, Path, Request

from anime_studio.core.errors import JobNotFoundError
from anime_studio.core.studio import Studio
from anime_studio.web.metrics import Metrics
from anime_studio.web.options import WebOptions
from common.schemas import JOB_ID_PATTERN


def _studio(request: Request) -> Studio:
    studio: Studio = request.app.state.studio
    return studio


def _options(request: Request) -> WebOptions:
    options: WebOptions = request.app.state.options
    return options


def _metrics(request: Request) -> Metrics:
    metrics: Metrics = request.app.state.metrics
    return metrics


def _base_url(request: Request) -> str:
    # X-Forwarded-* count only where uvicorn trusts the proxy and has already applied them to the scope.
    return (_options(request).base_url or str(request.base_url)).rstrip("/")


def _job_id(
    job_id: Annotated[
        str,
        Path(
            description="The job's id: its owner's capability.",
            examples=["j_" + "0" * 32],
            json_schema_extra={"pattern": JOB_ID_PATTERN},
        ),
    ],
) -> str:
    if not re.fullmatch(JOB_ID_PATTERN.strip("^$"), job_id):
        raise JobNotFoundError("no job has this id; a job id is j_ and 32 hex digits")
    structlog.contextvars.bind_contextvars(job_id=job_id)
    return job_id


StudioDep = Annotated[Studio, Depends(_studio)]
OptionsDep = Annotated[WebOptions, Depends(_options)]
MetricsDep = Annotated[Metrics, Depends(_metrics)]
BaseUrl = Annotated[str, Depends(_base_url)]
JobId = Annotated[str, Depends(_job_id)]
