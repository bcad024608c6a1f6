"""Request ids and W3C trace context, read strictly: a header from outside goes into every log line.

Source: https://www.w3.org/TR/trace-context/ sections 3.2.2 and 4.3.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from anime_studio.core.ids import new_request_id

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class RequestContext:
    """What ties everything done for a request together."""

    request_id: str
    traceparent: str | None

    @property
    def trace_id(self) -> str | None:
        """The 32 hex digits that name the caller's trace."""
        return None if self.traceparent is None else self.traceparent.split("-")[1]


def read_context(request_ids: Sequence[str], traceparents: Sequence[str]) -> RequestContext:
    """Return the caller's ids where they are well formed, our own id where not.

    Args:
        request_ids: Values of `X-Request-ID`.
        traceparents: Values of `traceparent`; more than one is none.
    """
    request_id = request_ids[0] if len(request_ids) == 1 else ""
    if not _REQUEST_ID.fullmatch(request_id):
        request_id = new_request_id()
    traceparent = traceparents[0] if len(traceparents) == 1 else ""
    return RequestContext(request_id, traceparent if _is_traceparent(traceparent) else None)


def _is_traceparent(value: str) -> bool:
    match = _TRACEPARENT.fullmatch(value) if len(value) <= 128 else None
    if match is None:
        return False
    version, trace_id, parent_id, more = match.groups()
    if version == "ff" or (version == "00" and more is not None):
        return False
    return set(trace_id) != {"0"} and set(parent_id) != {"0"}
