"""`POST /telemetry/signals`: what bots, overlays and pages saw on their side.

Counted and logged, never kept. A batch that is well formed is always accepted, so that
telling us about a bad night never makes it worse.
"""

from __future__ import annotations

from typing import Final

import structlog
from fastapi import APIRouter, Depends, Response
from fastapi.responses import JSONResponse

from anime_studio.web.body import require_json
from anime_studio.web.deps import MetricsDep
from anime_studio.web.describe import problems
from common.schemas import ClientSignals, SignalsAccepted

router = APIRouter(tags=["operation"])

CLIENT_SIGNAL: Final = "client.signal"
"""One per signal."""

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
        told = signal.model_dump(mode="json", exclude_none=True, exclude={"request_id"})
        _log.info(CLIENT_SIGNAL, **told, about_request_id=signal.request_id)
    accepted = SignalsAccepted(accepted=len(body.signals))
    return JSONResponse(accepted.model_dump(mode="json"), 202)
