"""Answers and headers for the OpenAPI document that FastAPI cannot derive."""

from __future__ import annotations

from typing import Any, Final

from anime_studio.web.problems import MEDIA_TYPE
from common.schemas import Job

_MEANINGS: Final = {
    400: "Malformed: not JSON, or a link that was altered",
    401: "The operator's key is missing or wrong",
    403: "The link's signature is not ours (`url_invalid`), or its time has passed (`url_expired`)",
    404: "There is no such job",
    409: "The deadline cannot be met",
    410: "The clip was swept or found damaged",
    413: "The body is too large",
    415: "The body is not application/json",
    416: "None of the ranges lies within the file",
    422: "A field is missing, malformed, out of bounds or beyond the recipe; or the Idempotency-Key belongs to another body",
    429: "The queue is full",
    500: "An unexpected error, logged under `request_id`",
    503: "The service cannot do this now",
    507: "No room is left",
}
_WITH_RETRY_AFTER: Final = frozenset({409, 429, 503})


def header(description: str, schema: dict[str, Any] | None = None, example: Any = None) -> dict[str, Any]:
    """Describe a header."""
    described: dict[str, Any] = {"description": description, "schema": schema or {"type": "string"}}
    return described if example is None else described | {"example": example}


RETRY_AFTER: Final = header("Seconds after which to try again.", {"type": "integer", "minimum": 0}, 5)
REQUEST_ID: Final = header("The caller's `X-Request-ID` if well formed, else one of ours.", None, "r_5d0c")
PREFERENCE_APPLIED: Final = {
    "Preference-Applied": header("The preferences that were honoured (RFC 7240).", None, "wait=30")
}
JOB_ENDED: Final[dict[str, Any]] = {"description": "The job has ended; `state` says how", "model": Job}
JOB_ACCEPTED: Final[dict[str, Any]] = {
    "description": "The job is kept and goes on",
    "model": Job,
    "headers": {
        "Location": header("Where to read the job.", {"type": "string", "format": "uri"}),
        "Retry-After": RETRY_AFTER,
        **PREFERENCE_APPLIED,
    },
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe error answers of these statuses."""
    return {status: _problem(status) for status in statuses}


def problems_or_pages(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe error answers that are pages for a browser."""
    described = problems(*statuses)
    for answer in described.values():
        answer["content"] |= {"text/html": {"schema": {"type": "string"}}}
    return described


def _problem(status: int) -> dict[str, Any]:
    described: dict[str, Any] = {
        "description": _MEANINGS[status],
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    return described | ({"headers": {"Retry-After": RETRY_AFTER}} if status in _WITH_RETRY_AFTER else {})


_CONTEXT_PARAMETERS: Final = [
    {
        "name": "X-Request-ID",
        "in": "header",
        "required": False,
        "description": "Ties this request's log lines and job together. 1–64 of A–Z a–z 0–9 . _ -; anything else is "
        "replaced by an id of ours.",
        "schema": {"type": "string"},
        "example": "show-42.1",
    },
    {
        "name": "traceparent",
        "in": "header",
        "required": False,
        "description": "W3C trace context; kept in the job and echoed when well formed, else ignored.",
        "schema": {"type": "string"},
        "example": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    },
]


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """Add what every route shares, and remove FastAPI's own error schema, which is never sent."""
    for operation in (operation for methods in document["paths"].values() for operation in methods.values()):
        operation["parameters"] = [*operation.get("parameters", []), *_CONTEXT_PARAMETERS]
        answers = operation["responses"]
        if "HTTPValidationError" in str(answers.get("422")):
            del answers["422"]
        for answer in answers.values():
            answer.setdefault("headers", {})["X-Request-ID"] = REQUEST_ID
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
    return document
