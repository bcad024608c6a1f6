"""`/status`: the operator's view, as a page or as JSON; `/warm`; `/recipe`: the deployment's recipe.

All numbers come from job records, so every process of a deployment answers with the same ones,
except for client signals: each process counts those that reached it.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse

from anime_studio.core.show import recipe_card, summarise
from anime_studio.web.accept import prefers_html
from anime_studio.web.deps import MetricsDep, OptionsDep, StudioDep, refuse_other_sites
from anime_studio.web.openapi_extras import problems
from anime_studio.web.routes.pages import page_response
from common.schemas import Readiness
from common.show import RecipeCard, ShowStatus

router = APIRouter(tags=["show"])

MOST_JOBS: Final = 1000
_WEEK_S: Final = 7 * 24 * 3600


@router.get(
    "/status",
    summary="How the show goes",
    response_model=ShowStatus,
    responses={
        200: {"description": "The summary; a page for callers that prefer HTML"},
        **problems(422, 500, 503),
    },
)
async def status(
    request: Request,
    studio: StudioDep,
    options: OptionsDep,
    metrics: MetricsDep,
    window_s: Annotated[
        int, Query(ge=60, le=_WEEK_S, description="Seconds to look back.", examples=[3600])
    ] = 3600,
    jobs: Annotated[
        int, Query(ge=0, le=MOST_JOBS, description="How many jobs to list, newest first.", examples=[0])
    ] = 0,
) -> Response:
    """Return p50 and p95 by stage, success rate, cold starts, backlog, spend, fallbacks and the last errors."""
    if prefers_html(request.headers.get("accept", "")):
        return page_response(request, "status.html", vary="Accept")
    now, window = studio.clock.now(), timedelta(seconds=window_s)
    answer = summarise(
        await studio.ended_since(now - window, MOST_JOBS),
        now=now,
        window=window,
        limit=MOST_JOBS,
        readiness=await studio.readiness(),
        spend=await studio.spend(),
        signals=metrics.signals_within(window_s),
        recipe=options.recipe,
        decoder=studio.policy.decoder,
        version=options.version,
        uptime_s=round(time.monotonic() - request.app.state.begun_s, 3),
        list_jobs=jobs,
    )
    return JSONResponse(answer.model_dump(mode="json"), headers={"Vary": "Accept"})


@router.post(
    "/warm",
    summary="Make a worker ready",
    status_code=202,
    response_description="Asked; the worker may still be starting: see `status`, or poll /ready",
    responses=problems(403, 500, 503),
    dependencies=[Depends(refuse_other_sites)],
)
async def warm(studio: StudioDep) -> Readiness:
    """Ask for a worker before the show needs one. Where one is always kept, only say how it is."""
    return await studio.warm()


@router.get("/recipe", summary="What this deployment draws", responses=problems(500))
async def recipe(studio: StudioDep) -> RecipeCard:
    """Return the recipe's sizes and bounds, all that a form or a bot needs to ask well."""
    return recipe_card(studio.recipe)
