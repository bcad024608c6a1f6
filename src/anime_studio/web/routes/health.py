"""`/health`: is the process up; `/ready`: would a job be rendered; `/metrics`: what has it counted."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from anime_studio.core.errors import ReportedError
from anime_studio.web.deps import MetricsDep, OptionsDep, StudioDep
from anime_studio.web.openapi_extras import problems
from common.schemas import Health, Readiness, Resolution

router = APIRouter(tags=["operation"])

RETRY_WHEN_UNREADY_S = 5.0


@router.get(
    "/health",
    summary="Is the process up",
    response_model=Health,
    response_description="It is",
    responses=problems(500),
)
async def health(request: Request, options: OptionsDep) -> Response:
    """Answer from this process alone: no store, no worker, no GPU is asked."""
    uptime_s = round(time.monotonic() - request.app.state.begun_s, 3)
    return JSONResponse(
        Health(version=options.version, recipe=options.recipe, uptime_s=uptime_s).model_dump(mode="json")
    )


@router.get(
    "/ready",
    summary="Would a job be drawn",
    response_model=Readiness,
    response_description="A job posted now would be drawn; a worker that sleeps is ready too",
    responses=problems(422, 500, 503),
)
async def ready(
    studio: StudioDep,
    resolution: Annotated[
        Resolution | None,
        Query(
            description="Of the clip whose seconds and dollars are told; without it, the first of the recipe's sizes.",
            examples=["1080p"],
        ),
    ] = None,
) -> Response:
    """Answer 200 once a worker can take work, else 503 with the reason and the command that mends it."""
    readiness = await studio.readiness(resolution)
    if readiness.problem is not None:
        raise ReportedError(readiness.problem, retry_after_s=RETRY_WHEN_UNREADY_S)
    return JSONResponse(readiness.model_dump(mode="json"))


@router.get(
    "/metrics",
    summary="Prometheus series of this process",
    response_class=Response,
    responses={
        200: {
            "description": "Text format 0.0.4. The series are those of the process that answers: see the comment at its head",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        },
        **problems(500, 503),
    },
)
async def metrics(studio: StudioDep, counted: MetricsDep) -> Response:
    """Return the series in Prometheus' text format."""
    return Response(await counted.expose(studio), media_type=CONTENT_TYPE_PLAIN_0_0_4)
