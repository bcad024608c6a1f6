"""`POST /generate`: accept a prompt, wait a bounded time, answer with the job.

200 carries a job that has ended, also one that failed: its `state` and `error` say so, as in
`GET /jobs/{job_id}`. 202 carries a job that has not ended; the caller polls or follows it. An
error status means that no job was created. A caller that disconnects ends the wait, not the job.
"""

from __future__ import annotations

import asyncio
import math
import re
from typing import Annotated, Final

import structlog
from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.responses import JSONResponse

from anime_studio.core.errors import InvalidRequestError
from anime_studio.core.jobs import JobRecord
from anime_studio.core.studio import Caller, Studio
from anime_studio.web.deps import BaseUrl, OptionsDep, StudioDep, require_json
from anime_studio.web.middleware.request_context import context_of
from anime_studio.web.openapi_extras import JOB_ACCEPTED, JOB_ENDED, PREFERENCE_APPLIED, problems
from anime_studio.web.prefer import Preference, read_preference
from common.schemas import GenerateRequest, Job

router = APIRouter(tags=["jobs"])

_IDEMPOTENCY_KEY: Final = re.compile(r'"?([A-Za-z0-9._:~+/=-]{1,128})"?', re.ASCII)
_SOONEST_POLL_S, _USUAL_POLL_S, _LATEST_POLL_S = 1.0, 2.0, 30.0


async def idempotency_key(
    request: Request,
    _described: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            description="The same key and body answer with the same job; another body is refused with 422. "
            "1–128 characters of A–Z a–z 0–9 . _ : ~ + / = -, optionally in double quotes.",
            examples=["show-2026-11-23-0042"],
            json_schema_extra={"pattern": f"^{_IDEMPOTENCY_KEY.pattern}$"},
        ),
    ] = None,
) -> str | None:
    """Return the caller's key.

    Raises:
        InvalidRequestError: It is given twice, or is not of the allowed form.
    """
    values = request.headers.getlist("idempotency-key")
    if not values:
        return None
    match = _IDEMPOTENCY_KEY.fullmatch(values[0])
    if len(values) > 1 or match is None:
        raise InvalidRequestError(
            "Idempotency-Key must be one value of 1 to 128 characters of A-Za-z0-9._:~+/=-"
        )
    return match[1]


async def preference(
    request: Request,
    _described: Annotated[
        str | None,
        Header(
            alias="Prefer",
            description="RFC 7240: `respond-async` answers at once, `wait=N` after at most N seconds. "
            "Anything else is ignored.",
            examples=["respond-async", "wait=30"],
        ),
    ] = None,
) -> Preference:
    """Return how the caller wants to be answered."""
    return read_preference(request.headers.getlist("prefer"))


@router.post(
    "/generate",
    summary="Make a clip from a prompt",
    response_model=Job,
    responses={
        200: JOB_ENDED | {"headers": PREFERENCE_APPLIED},
        202: JOB_ACCEPTED,
        **problems(400, 409, 413, 415, 422, 429, 500, 503, 507),
    },
    dependencies=[Depends(require_json)],
)
async def generate(
    body: GenerateRequest,
    request: Request,
    studio: StudioDep,
    options: OptionsDep,
    base_url: BaseUrl,
    key: Annotated[str | None, Depends(idempotency_key)],
    preferred: Annotated[Preference, Depends(preference)],
) -> Response:
    """Keep a job for the prompt, wait for its end at most the bounded time, and answer with the job.

    200: the job has ended; look at `state`: `succeeded` with a signed `clip.url`, or `failed` or
    `cancelled` with `error`. 202: it goes on; poll `Location` after `Retry-After` seconds or
    follow `links.events`. Any error status: no job was made.
    """
    context = context_of(request)
    job = await studio.submit(body, Caller(context.request_id, context.traceparent, key))
    structlog.contextvars.bind_contextvars(job_id=job.job_id)
    wait_s = preferred.bounded_wait_s(options.generate_wait_s)
    if wait_s > 0 and not job.state.final:
        job = await _wait_while_connected(request, studio, job, wait_s)
    return await _job_answer(studio, job, base_url, preferred.applied(wait_s))


async def _wait_while_connected(request: Request, studio: Studio, job: JobRecord, wait_s: float) -> JobRecord:
    ended = asyncio.create_task(studio.wait(job.job_id, wait_s))
    disconnected = asyncio.create_task(_disconnect(request))
    try:
        await asyncio.wait((ended, disconnected), return_when=asyncio.FIRST_COMPLETED)
        return ended.result() if ended.done() else job
    finally:
        for task in (ended, disconnected):
            task.cancel()
        await asyncio.gather(ended, disconnected, return_exceptions=True)


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _job_answer(studio: Studio, job: JobRecord, base_url: str, applied: str | None) -> Response:
    body = await studio.present(job, base_url)
    headers = {} if applied is None else {"Preference-Applied": applied}
    if not job.state.final:
        headers["Location"] = body.links.self
        headers["Retry-After"] = str(poll_after_s(body))
    return JSONResponse(body.model_dump(mode="json"), 200 if job.state.final else 202, headers)


def poll_after_s(job: Job) -> int:
    """Return the whole seconds after which the caller should poll *job* again."""
    eta_s = _USUAL_POLL_S if job.progress.eta_s is None else job.progress.eta_s
    return math.ceil(min(max(eta_s, _SOONEST_POLL_S), _LATEST_POLL_S))
