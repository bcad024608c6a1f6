"""A slash at the end redirects on every server, also on one that sends no `raw_path`, as Modal's."""

import asyncio

import httpx
import pytest
from starlette.responses import Response

from anime_studio.web.middleware.trailing_slash import TrailingSlashMiddleware


@pytest.mark.parametrize("optional", [{}, {"raw_path": None}], ids=["absent", "null"])
@pytest.mark.parametrize(
    ("path", "location"),
    [("/health", None), ("/", None), ("/health/", "../health"), ("/a%20b/", "../a%20b")],
)
def test_without_a_raw_path_the_decoded_path_decides(path, location, optional):
    studio = TrailingSlashMiddleware(Response("studio"))

    async def server(scope, receive, send):
        await studio({key: scope[key] for key in scope if key != "raw_path"} | optional, receive, send)

    answer = asyncio.run(get(server, path))
    assert answer.headers.get("location") == location
    assert answer.status_code == (307 if location else 200)


async def get(server, path: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(server), base_url="http://127.0.0.1") as http:
        return await http.get(path)
