"""An ASGI server that is not uvicorn, as a container's on Modal, ends without a task of an event stream."""

import asyncio
from pathlib import Path

import httpx

from anime_studio.web.app import create_app
from support.server_rig import ServerRig


async def test_no_task_outlives_the_lifespan_of_an_app_that_served_a_stream(tmp_path: Path):
    rig = ServerRig(tmp_path)
    app = create_app(rig.open_studio, rig.options)
    before = asyncio.all_tasks()
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http,
    ):
        order = {"prompt": "a cat on a roof", "duration": 0.5}
        job = (await http.post("/generate", json=order, headers={"Prefer": "respond-async"})).json()
        await http.delete(f"/jobs/{job['job_id']}")
        stream = await http.get(f"/jobs/{job['job_id']}/events")
        assert "event: job" in stream.text
        assert asyncio.all_tasks() - before, "the stream left its task; else this test shows nothing"

    assert asyncio.all_tasks() == before
