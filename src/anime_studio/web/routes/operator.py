"""`/operator`: what only the operator may see and do.

The operator sends the key as `Authorization: Bearer …` (RFC 6750, section 2.1). Without a key in the settings, a server
that listens on loopback lets callers of the same machine in: the address, the name in `Host` and the absence of every
header that proxies add must agree, since a tunnel's callers come from loopback too.
"""

from __future__ import annotations

import hmac
import ipaddress
from typing import Final
from urllib.parse import urlsplit

import structlog
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from anime_studio.core.errors import OperatorOnlyError
from anime_studio.core.operator import Operator
from anime_studio.telemetry import LogEvent
from anime_studio.web.deps import BaseUrl, MetricsDep, OptionsDep, StudioDep, refuse_other_sites, require_json
from anime_studio.web.openapi_extras import problems
from common.operator import OperatorAction, OperatorAnswer, OperatorView

_FROM_PROXIES: Final = (
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-real-ip",
    "cf-connecting-ip",
)

_log = structlog.get_logger(__name__)


async def require_operator(request: Request, studio: StudioDep, options: OptionsDep) -> None:
    """Refuse whoever is not the operator.

    Raises:
        OperatorOnlyError: 401.
    """
    key = studio.policy.operator_key
    if key is None:
        if options.operator_on_loopback and _is_of_this_machine(request):
            return
        raise OperatorOnlyError(
            "this server has no operator's key; set ANIME_STUDIO_OPERATOR_KEY (on Modal: anime-studio keys operator) "
            "and send it as Authorization: Bearer KEY"
        )
    scheme, _, sent = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(sent.strip().encode(), key.encode()):
        raise OperatorOnlyError("send the operator's key: Authorization: Bearer KEY")


router = APIRouter(
    prefix="/operator",
    tags=["show"],
    dependencies=[Depends(refuse_other_sites), Depends(require_operator)],
)


@router.get("", summary="See whose prompt is drawn", responses=problems(401, 403, 500, 503))
async def see(request: Request, studio: StudioDep, metrics: MetricsDep, base_url: BaseUrl) -> OperatorView:
    """Return open and last jobs with their prompts, channels with their viewers, and what was spent."""
    return await Operator(studio).view(request.app.state.viewers.channels(), metrics.expired_links, base_url)


@router.post(
    "",
    summary="Cancel, clear, hide or pause",
    response_model=OperatorAnswer,
    responses=problems(400, 401, 403, 404, 410, 413, 415, 422, 500, 503),
    dependencies=[Depends(require_json)],
)
async def act(
    body: OperatorAction, request: Request, studio: StudioDep, metrics: MetricsDep, base_url: BaseUrl
) -> Response:
    """Do one thing, and return the show after it. Safe to repeat."""
    operator = Operator(studio)
    changed = await operator.act(body)
    _log.info(LogEvent.OPERATOR_ACTED, action=body.action.value, changed=changed)
    view = await operator.view(request.app.state.viewers.channels(), metrics.expired_links, base_url)
    answer = OperatorAnswer(**view.model_dump(), changed=changed)
    return JSONResponse(answer.model_dump(mode="json"))


def _is_of_this_machine(request: Request) -> bool:
    name = urlsplit(f"//{request.headers.get('host', '')}").hostname
    peer = request.client.host if request.client is not None else None
    passed_on = any(header in request.headers for header in _FROM_PROXIES)
    return not passed_on and _is_loopback(name) and _is_loopback(peer)


def _is_loopback(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
