"""The FastAPI application, the same on a laptop and on Modal.

`create_app` opens nothing. The studio is opened when the server starts (the ASGI lifespan),
because Modal's clients can be created only after a memory snapshot is restored.

CORS: any origin may read clip files; all else is for pages of this origin. The API has no
logins, so only the browser's same-origin rule stops a web page that the operator visits from
posting prompts to the operator's laptop and spending its GPU. The rule does not concern bots
and OBS, which are no web pages, and the studio's own pages are served from here.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

from fastapi import FastAPI
from fastapi.routing import APIRoute

from anime_studio.core.studio import Studio
from anime_studio.settings import WebOptions
from anime_studio.web import problems
from anime_studio.web.event_streams import end_watchers
from anime_studio.web.metrics import Metrics
from anime_studio.web.middleware.allowed_hosts import AllowedHostsMiddleware
from anime_studio.web.middleware.body_limit import BodyLimitMiddleware
from anime_studio.web.middleware.head import HeadMiddleware
from anime_studio.web.middleware.request_context import ContextMiddleware
from anime_studio.web.middleware.trailing_slash import TrailingSlashMiddleware
from anime_studio.web.openai import models as openai_models
from anime_studio.web.openai import videos as openai_videos
from anime_studio.web.openai.errors import PREFIX as OPENAI_PREFIX
from anime_studio.web.openai.errors import envelope_answer
from anime_studio.web.openapi_extras import complete
from anime_studio.web.routes import (
    generate,
    health,
    jobs,
    operator,
    outputs,
    overlay,
    pages,
    signals,
    status,
    watch,
)
from anime_studio.web.viewers import Viewers

OpenStudio = Callable[[], AbstractAsyncContextManager[Studio]]

ROUTERS: Final = (
    generate.router,
    jobs.router,
    outputs.router,
    health.router,
    signals.router,
    pages.router,
    overlay.router,
    watch.router,
    status.router,
    operator.router,
    openai_videos.router,
    openai_models.router,
)
"""All routes; a new page or protocol is one more entry."""

DESCRIPTION: Final = """A prompt becomes an anime clip.

`POST /generate` answers with a **job**; a finished job carries a clip and a short-lived signed URL
that plays anywhere. Reading the job again mints a fresh URL. The job id is its owner's capability;
the clip id, which viewers see, opens nothing. Errors are `application/problem+json` (RFC 9457) with a
stable `code`, `retryable` and the `request_id` to name in a report. Every answer carries
`X-Request-ID`; send your own (1–64 of A–Z a–z 0–9 . _ -) and a W3C `traceparent` to tie logs together."""


def create_app(open_studio: OpenStudio, options: WebOptions) -> FastAPI:
    """Return the application.

    Args:
        open_studio: Opens the studio at start and closes it at the end.
        options: How HTTP behaves.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_studio() as studio:
            app.state.studio = studio
            app.state.metrics.count_jobs_after(await studio.newest_sequence())
            yield
            await end_watchers()

    app = FastAPI(
        title="anime-studio",
        version=options.version,
        description=DESCRIPTION,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        lifespan=lifespan,
        separate_input_output_schemas=False,
        redirect_slashes=False,  # see TrailingSlashMiddleware
        docs_url=None,  # FastAPI's pages load scripts from other sites; /openapi.json is enough
        redoc_url=None,
        generate_unique_id_function=_operation_id,
    )
    generate_openapi = app.openapi
    app.openapi = lambda: app.openapi_schema or complete(generate_openapi())  # type: ignore[method-assign]
    app.state.options = options
    app.state.metrics = Metrics()
    app.state.viewers = Viewers()
    app.state.begun_s = time.monotonic()
    for router in ROUTERS:
        app.include_router(router)
    routes = [r for router in ROUTERS for r in router.routes if isinstance(r, APIRoute)]
    problems.install(app, routes, {OPENAI_PREFIX: envelope_answer})
    # The last one added is the outermost.
    app.add_middleware(HeadMiddleware, routes=routes)
    app.add_middleware(TrailingSlashMiddleware)
    app.add_middleware(BodyLimitMiddleware, max_body_bytes=options.max_body_bytes)
    if options.allowed_hosts is not None:
        app.add_middleware(AllowedHostsMiddleware, allowed=options.allowed_hosts)
    app.add_middleware(ContextMiddleware, metrics=app.state.metrics)
    return app


def _operation_id(route: APIRoute) -> str:
    return f"{route.name}_head" if route.methods == {"HEAD"} else route.name
