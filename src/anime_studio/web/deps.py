"""Dependencies of the routes: the studio, its options, the public address, a checked job id.

All are coroutines, although none awaits: FastAPI runs a plain function in a thread of its pool, and the
way there and back costs more than what is asked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any
from urllib.parse import urlsplit

import structlog
from fastapi import Depends, HTTPException, Path, Request

from anime_studio.core.errors import JobNotFoundError
from anime_studio.core.ids import is_job_id
from anime_studio.core.studio import Studio
from anime_studio.settings import WebOptions
from anime_studio.web.metrics import Metrics
from common.schemas import JOB_ID_PATTERN


def _state(name: str) -> Callable[[Request], Awaitable[Any]]:
    async def read(request: Request) -> Any:
        return getattr(request.app.state, name)

    return read


async def _base_url(request: Request) -> str:
    return _public_address(request)


def _public_address(request: Request) -> str:
    # X-Forwarded-* count only where uvicorn trusts the proxy and has already applied them to the scope.
    return (request.app.state.options.base_url or str(request.base_url)).rstrip("/")


async def _job_id(
    job_id: Annotated[
        str,
        Path(
            description="The job's id: its owner's capability.",
            examples=["j_" + "0" * 32],
            json_schema_extra={"pattern": JOB_ID_PATTERN},
        ),
    ],
) -> str:
    if not is_job_id(job_id):
        raise JobNotFoundError("no job has this id; a job id is j_ and 32 hex digits")
    structlog.contextvars.bind_contextvars(job_id=job_id)
    return job_id


StudioDep = Annotated[Studio, Depends(_state("studio"))]
OptionsDep = Annotated[WebOptions, Depends(_state("options"))]
MetricsDep = Annotated[Metrics, Depends(_state("metrics"))]
BaseUrl = Annotated[str, Depends(_base_url)]
JobId = Annotated[str, Depends(_job_id)]


def media_type_of(request: Request) -> str:
    """Return the media type of the body, without parameters, in lower case; empty if none is named."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def require_json(request: Request) -> None:
    """Refuse a body whose media type is not JSON.

    A web page of another origin can send that type only after a CORS preflight, which is refused.

    Raises:
        HTTPException: 415.
    """
    if media_type_of(request) != "application/json":
        raise HTTPException(415, "send the body as application/json")


async def refuse_other_sites(request: Request) -> None:
    """Refuse a browser's request for a page of another site: it would spend the operator's GPU.

    For routes without a JSON body, to which a browser sends no preflight. Browsers send
    `Sec-Fetch-Site` only to a trustworthy address: HTTPS or loopback (W3C Fetch Metadata, section 2).
    To a plain-HTTP name in a LAN they send `Origin` alone.

    Raises:
        HTTPException: 403.
    """
    site = request.headers.get("sec-fetch-site")
    if not (_is_own_origin(request) if site is None else site in ("none", "same-origin")):
        raise HTTPException(403, "pages of other sites may not do this")


def _is_own_origin(request: Request) -> bool:
    origin = request.headers.get("origin")
    own = {request.headers.get("host"), urlsplit(_public_address(request)).netloc}
    return origin is None or urlsplit(origin).netloc in own
