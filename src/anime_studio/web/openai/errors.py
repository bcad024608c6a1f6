"""Errors of `/v1/videos` in OpenAI's envelope, with 400 where our own API says 422, as its clients expect."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from typing import Any, Final

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from anime_studio.core.errors import AnimeStudioError, InvalidRequestError
from anime_studio.web.middleware.request_context import context_of
from anime_studio.web.openai.schemas import ErrorBody, ErrorEnvelope
from anime_studio.web.problems import status_problem
from common.schemas import Problem

PREFIX: Final = "/v1"
"""Every answer below it speaks OpenAI's error envelope."""
_MEANINGS: Final = {400: "Not valid", 403: "Sent by another site's page", 404: "No such video"}
_NAMES_ITS_FIELD: Final = re.compile(r"(model|size|seconds|input_reference): ")


class VideoNotReadyError(AnimeStudioError):
    """The content of a video was asked for before it is completed."""

    code = "video_not_ready"
    title = "The video has no content"
    status = 400


class EnvelopeRoute(APIRoute):
    """A route that answers every error in OpenAI's envelope."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler."""
        handle = super().get_route_handler()

        async def handle_in_envelope(request: Request) -> Response:
            request_id = context_of(request).request_id
            try:
                return await handle(request)
            except AnimeStudioError as error:
                return _error(request, error.problem(request_id))
            except RequestValidationError as error:
                return _invalid(request, error.errors(), request_id)
            except HTTPException as error:
                return _error(request, status_problem(error.status_code, str(error.detail), request_id))

        return handle_in_envelope


def envelope_answer(request: Request, problem: Problem) -> Response:
    """Return *problem* in the envelope: for what no route of this API answers, such as an unknown path."""
    return _error(request, problem)


def error_answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe error answers of these statuses in the OpenAPI document."""
    return {
        status: {"model": ErrorEnvelope, "description": _MEANINGS.get(status, "Error")} for status in statuses
    }


def _invalid(request: Request, errors: Any, request_id: str) -> Response:
    first = errors[0]
    location = [str(part) for part in first["loc"] if part not in ("body", "query", "header")]
    param = ".".join(location) or None
    detail = f"{param}: {first['msg']}" if param else first["msg"]
    return _error(request, InvalidRequestError(detail).problem(request_id), param)


def _error(request: Request, problem: Problem, param: str | None = None) -> Response:
    request.state.error_code = problem.code  # for the log line and the metrics
    named = _NAMES_ITS_FIELD.match(problem.detail)
    body = _envelope(problem, param or (named[1] if named else None))
    status = 400 if problem.status == 422 else problem.status
    headers = {} if problem.retry_after_s is None else {"Retry-After": str(round(problem.retry_after_s))}
    return JSONResponse(body.model_dump(mode="json"), status, headers)


def _envelope(problem: Problem, param: str | None) -> ErrorEnvelope:
    kind = "invalid_request_error" if problem.status < 500 else "server_error"
    if problem.status == 429:
        kind = "rate_limit_error"
    return ErrorEnvelope(error=ErrorBody(message=problem.detail, type=kind, param=param, code=problem.code))
