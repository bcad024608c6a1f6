"""Behind a proxy with an unknown inner address, links name an address that the caller can open."""

from collections.abc import Sequence

import httpx
import pytest
from fastapi import FastAPI, Request

from anime_studio.web.middleware.public_address import PublicAddressMiddleware

OWN, CUSTOM = "https://me--anime-studio-web.modal.run", "https://clips.example"


def client(addresses: Sequence[str]) -> httpx.AsyncClient:
    app = FastAPI()

    @app.get("/where")
    async def where(request: Request) -> str:
        return str(request.base_url).rstrip("/")

    wrapped = PublicAddressMiddleware(app, lambda: addresses)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=wrapped), base_url="http://10.0.0.7:8000")


@pytest.mark.parametrize(
    ("addresses", "host", "expected"),
    [
        ([OWN], "me--anime-studio-web.modal.run", OWN),
        ([OWN], "10.0.0.7:8000", OWN),
        ([OWN], "evil.example", OWN),
        ([CUSTOM, OWN], "clips.example", CUSTOM),
        ([CUSTOM, OWN], "me--anime-studio-web.modal.run", OWN),
        ([CUSTOM, OWN], "localhost", CUSTOM),
        ([], "10.0.0.7:8000", "http://10.0.0.7:8000"),
    ],
)
async def test_links_follow_the_public_address_that_was_asked(
    addresses: Sequence[str], host: str, expected: str
):
    async with client(addresses) as http:
        assert (await http.get("/where", headers={"Host": host})).json() == expected
