"""`POST /telemetry/signals`: reports from bots, overlays and pages.

Signals are counted and logged, and not stored. A batch that is well formed is always accepted,
so that a client with a problem does not get another one.
"""

from __future__ import annotations

import structlog
from fastapi import APIRouter, Depends, Response
from fastapi.responses import JSONResponse

from anime_studio.telemetry import LogEvent
from anime_studio.web.deps import MetricsDep, require_json
from anime_studio.web.openapi_extras import problems
from common.schemas import ClientSignals, SignalsAccepted

router = APIRouter(tags=["operation"])


_log = structlog.get_logger(__name__)


@router.post(
    "/telemetry/signals",
    summary="Report what a client saw",
    status_code=202,
    response_model=SignalsAccepted,
    response_description="Counted",
    responses=problems(400, 413, 415, 422, 500),
    dependencies=[Depends(require_json)],
)
async def accept_signals(body: ClientSignals, metrics: MetricsDep) -> Response:
    """Count and log up to 100 signals; their ids go into the log, never into a label."""
    for signal in body.signals:
        metrics.count_signal(signal)
        fields = signal.model_dump(mode="json", exclude_none=True, exclude={"request_id"})
        _log.info(LogEvent.CLIENT_SIGNAL, **fields, about_request_id=signal.request_id)
    accepted = SignalsAccepted(accepted=len(body.signals))
    return JSONResponse(accepted.model_dump(mode="json"), 202)
