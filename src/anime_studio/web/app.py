"""The HTTP face of a studio, the same on a laptop and on Modal.

`create_app` opens nothing: the studio is opened when the server starts (the ASGI
lifespan), because Modal makes its clients only after a memory snapshot was restored.

CORS: clip files are readable from any origin, everything else from ours alone. The
endpoint has no logins, so the browser's same-origin rule is all that keeps a web page the
operator happens to visit from posting prompts to his laptop and spending his GPU. Bots and
OBS are no web pages and never notice; our own pages are served from here.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from typing import Final

from fastapi import FastAPI
from fastapi.routing import APIRoute

from anime_studio.core.studio import Studio
from anime_studio.web import (
    generate,
    health,
    jobs,
    openai_videos,
    outputs,
    overlay,
    pages,
    problems,
    signals,
    status,
)
from anime_studio.web.body import BodyLimitMiddleware
from anime_studio.web.context import ContextMiddleware
from anime_studio.web.describe import complete
from anime_studio.web.metrics import Metrics
from anime_studio.web.options import WebOptions

OpenStudio = Callable[[], AbstractAsyncContextManager[Studio]]

ROUTERS: Final = (
    generate.router,
    jobs.router,
    outputs.router,
    health.router,
    signals.router,
    pages.router,
    overlay.router,
    status.router,
    openai_videos.router,
)
"""Everything that is served; a new page or protocol is one more entry."""

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
            yield

    app = FastAPI(
        title="anime-studio",
        version=options.version,
        description=DESCRIPTION,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        lifespan=lifespan,
        separate_input_output_schemas=False,
        docs_url=None,  # its pages load scripts from elsewhere; /openapi.json is the document
        redoc_url=None,
        generate_unique_id_function=_operation_id,
    )
    describe_plainly = app.openapi
    app.openapi = lambda: app.openapi_schema or complete(describe_plainly())  # type: ignore[method-assign]
    app.state.options = options
    app.state.metrics = Metrics(datetime.now(UTC))
    app.state.begun_s = time.monotonic()
    for router in ROUTERS:
        app.include_router(router)
    problems.install(app, [r for router in ROUTERS for r in router.routes if isinstance(r, APIRoute)])
    # The last one added is the outermost.
    app.add_middleware(BodyLimitMiddleware, max_body_bytes=options.max_body_bytes)
    app.add_middleware(ContextMiddleware, metrics=app.state.metrics)
    return app


def _operation_id(route: APIRoute) -> str:
    return f"{route.name}_head" if route.methods == {"HEAD"} else route.name
