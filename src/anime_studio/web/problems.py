"""Every error answer, ours and the framework's, as RFC 9457 `application/problem+json`.

Source: https://www.rfc-editor.org/rfc/rfc9457
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from anime_studio.core.errors import AnimeStudioError, InvalidRequestError
from common.schemas import Problem

MEDIA_TYPE: Final = "application/problem+json"

_CODES: Final = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    415: "unsupported_media_type",
    416: "range_not_satisfiable",
    421: "misdirected_request",
}
_ERRORS_SHOWN: Final = 5
_MAX_DETAIL_CHARS: Final = 600

Write = Callable[[Request, Problem], Response]
"""Writes a problem in the words of another API."""


def answer(request: Request, problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """Return *problem* as the answer to *request*, whose log line and metrics then name its code.

    `Retry-After` is set when the problem knows one. A path of another API gets that API's error body.
    """
    request.state.error_code = problem.code
    response = _writer_for(request)(request, problem)
    response.headers.update(headers or {})
    if problem.retry_after_s is not None:
        response.headers["Retry-After"] = str(math.ceil(problem.retry_after_s))
    return response


def status_problem(status: int, detail: str, request_id: str, code: str | None = None) -> Problem:
    """Return the problem for an HTTP status."""
    code = code or _CODES.get(status, "internal_error" if status >= 500 else "http_error")
    return Problem(
        type=f"/problems/{code}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        retryable=status in (408, 429, 502, 503, 504),
        request_id=request_id,
    )


def _writer_for(request: Request) -> Write:
    path = request.url.path
    writers: Mapping[str, Write] = request.app.state.problem_writers
    return next((write for prefix, write in writers.items() if f"{path}/".startswith(f"{prefix}/")), _write)


def _write(_request: Request, problem: Problem) -> Response:
    return Response(problem.model_dump_json(exclude_none=True), problem.status, media_type=MEDIA_TYPE)


def install(app: FastAPI, routes: Sequence[APIRoute], writers: Mapping[str, Write]) -> None:
    """Make *app* answer every error as a problem.

    Args:
        app: The application.
        routes: They define which methods a path allows.
        writers: For each prefix of another API's paths, what writes a problem there.
    """
    app.state.problem_writers = writers

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        headers = dict(error.headers or {})
        detail = str(error.detail)
        if error.status_code == 405:
            allowed = _allowed_methods(request.url.path, routes)
            headers["Allow"] = allowed or headers.get("Allow", "")
            detail = f"this path takes {headers['Allow']}"
        elif error.status_code == 404:
            detail = "no route has this path; /openapi.json lists them"
        return answer(request, status_problem(error.status_code, detail, _request_id(request)), headers)

    app.add_exception_handler(AnimeStudioError, _on_our_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, on_http_error)


async def _on_our_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, AnimeStudioError)
    return answer(request, error.problem(_request_id(request)))


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = error.errors()
    if errors and errors[0]["type"] == "json_invalid":
        detail = f"the body is not JSON: {errors[0]['ctx']['error']} at byte {errors[0]['loc'][-1]}"
        return answer(request, status_problem(400, detail, _request_id(request), "malformed_json"))
    shown = "; ".join(f"{_field(item['loc'])}: {item['msg']}" for item in errors[:_ERRORS_SHOWN])
    more = f"; and {len(errors) - _ERRORS_SHOWN} more" if len(errors) > _ERRORS_SHOWN else ""
    detail = shown[:_MAX_DETAIL_CHARS] + more
    return answer(request, InvalidRequestError(detail).problem(_request_id(request)))


def _field(location: Sequence[Any]) -> str:
    # The first part is the place (body, query, path); the fields of a body need no prefix.
    parts = location[1:] if location[0] == "body" and len(location) > 1 else location
    return ".".join(str(part) for part in parts)


def _allowed_methods(path: str, routes: Sequence[APIRoute]) -> str:
    # Starlette's own Allow header holds the methods of only the first route with this path.
    allowed = {method for route in routes if route.path_regex.match(path) for method in route.methods or ()}
    return ", ".join(sorted(allowed | {"HEAD"} if "GET" in allowed else allowed))


def _request_id(request: Request) -> str:
    return str(request.state.context.request_id)
