"""`GET /v1/models`: which model to name in `/v1/videos`; programs ask before they send."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request

from anime_studio.web.deps import OptionsDep
from anime_studio.web.openai.errors import PREFIX, EnvelopeRoute, error_answers
from anime_studio.web.openai.schemas import ModelCard, ModelList

router = APIRouter(prefix=f"{PREFIX}/models", tags=["openai"], route_class=EnvelopeRoute)


@router.get("", summary="List the models", responses=error_answers(500))
async def list_models(request: Request, options: OptionsDep) -> ModelList:
    """Return the deployment's recipe, the one model there is."""
    started_at = time.time() - (time.monotonic() - request.app.state.begun_s)
    return ModelList(data=[ModelCard(id=options.recipe, created=int(started_at))])
