"""Every error answer, ours and the framework's, as RFC 9457 `application/problem+json`.

Source: https://www.rfc-editor.org/rfc/rfc9457
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
}
_TOLD_ERRORS: Final = 5
_MAX_DETAIL_CHARS: Final = 600


def answer(request: Request, problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """Return *problem* as the answer to *request*, whose log line and measure then name its code.

    `Retry-After` is set when the problem knows one.
    """
    request.state.error_code = problem.code
    response = Response(
        problem.model_dump_json(exclude_none=True), problem.status, dict(headers or {}), MEDIA_TYPE
    )
    if problem.retry_after_s is not None:
        response.headers["Retry-After"] = str(math.ceil(problem.retry_after_s))
    return response


def status_problem(status: int, detail: str, request_id: str, code: str | None = None) -> Problem:
    """Return a problem that HTTP itself defines."""
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


def install(app: FastAPI, routes: Sequence[APIRoute]) -> None:
    """Make *app* answer every error as a problem; *routes* tell which methods a path allows."""

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
    told = "; ".join(f"{_field(item['loc'])}: {item['msg']}" for item in errors[:_TOLD_ERRORS])
    more = f"; and {len(errors) - _TOLD_ERRORS} more" if len(errors) > _TOLD_ERRORS else ""
    detail = told[:_MAX_DETAIL_CHARS] + more
    return answer(request, InvalidRequestError(detail).problem(_request_id(request)))


def _field(location: Sequence[Any]) -> str:
    # The first part is where FastAPI looked (body, query, path); a body's fields need no prefix.
    parts = location[1:] if location[0] == "body" and len(location) > 1 else location
    return ".".join(str(part) for part in parts)


def _allowed_methods(path: str, routes: Sequence[APIRoute]) -> str:
    # Starlette names the methods of the first route with this path only.
    return ", ".join(
        sorted({m for route in routes if route.path_regex.match(path) for m in route.methods or ()})
    )


def _request_id(request: Request) -> str:
    return str(request.state.context.request_id)
