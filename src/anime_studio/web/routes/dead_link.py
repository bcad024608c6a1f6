"""What a person sees who opens a clip's link in a browser after it has died: words, and where to go on."""

from __future__ import annotations

from string import Template
from typing import Final

from fastapi import Request, Response

from anime_studio.web.routes.pages import content_security_policy, page_text
from common.schemas import Problem

_KNOWN: Final = {
    "url_expired": {
        "title": "This link has expired",
        "reason": "A link to a clip works for a short time only, so that nobody who finds it later can watch.",
        "remedy": "Ask whoever sent the link for a new one. If you ordered the clip in this browser, the studio lists it "
        "under “Your clips” while it is kept.",
    },
    "clip_hidden": {
        "title": "This clip is not shown now",
        "reason": "It waits for a moderator, or the studio took it off the air.",
        "remedy": "Once it is shown, this same link opens it.",
    },
    "clip_gone": {
        "title": "This clip is gone",
        "reason": "Clips are kept for a while and then deleted. Their owner or the studio may take them away before.",
        "remedy": "The studio can draw another from the same words.",
    },
}
_WATCH_EXPIRED: Final = {
    "title": "This link has expired",
    "reason": "It worked for as long as the clip was kept.",
    "remedy": "The studio can draw another from the same words.",
}
_OTHER: Final = {
    "title": "This link is not complete",
    "reason": "A part of the address is missing or was changed, so the link opens no clip.",
    "remedy": "Copy the whole address again, or ask whoever sent it for a new link.",
}


def dead_link_page(request: Request, problem: Problem) -> Response:
    """Return the page for *problem*, with its status; the request's log line and metrics name its code."""
    request.state.error_code = problem.code
    route: str = request.scope["route"].path
    words = _KNOWN.get(problem.code, _OTHER)
    if problem.code == "url_expired" and route.startswith("/watch/"):
        words = _WATCH_EXPIRED
    return Response(
        Template(page_text("dead_link.html")).substitute(words, root="../" * (route.count("/") - 1)),
        problem.status,
        {"Content-Security-Policy": content_security_policy(), "Vary": "Accept"},
        media_type="text/html",
    )
