"""The `Accept` header. Source: RFC 9110, section 12.5.1."""

from __future__ import annotations


def prefers_html(accept: str) -> bool:
    """Return whether *accept* names HTML above JSON; a wildcard is satisfied with JSON."""
    qualities = {"text/html": 0.0, "application/json": 0.0}
    for item in accept.split(","):
        media_type, *parameters = (part.strip().lower() for part in item.split(";"))
        if media_type in qualities:
            qualities[media_type] = _quality(parameters)
    return qualities["text/html"] > qualities["application/json"]


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
