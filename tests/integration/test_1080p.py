"""1080p through HTTP on a laptop: offered where the checkpoint has an upscaler, refused elsewhere."""

import io
from pathlib import Path

import av
import httpx
import pytest

from anime_studio.checkpoints.manifest import Manifest
from anime_studio.core.recipes import TINY_RANDOM
from support.engine import checkpoint_in
from support.local_server import LocalServer
from support.server_rig import ServerRig
from support.upscaler import add_upscaler


@pytest.mark.parametrize(("resolution", "size"), [("1080p", (1920, 1080)), ("1080p-portrait", (1080, 1920))])
def test_a_laptop_draws_it(
    tmp_path: Path, tiny_checkpoint: Path, resolution: str, size: tuple[int, int]
) -> None:
    models = tmp_path / "models"
    folder = checkpoint_in(models, tiny_checkpoint).folder
    add_upscaler(folder)
    if (folder / "manifest.json").exists():
        Manifest.of(folder).write(folder)
    server = LocalServer(tmp_path / "server", models)
    try:
        server.start()
        card = server.http.get("/recipe").json()
        assert {"resolution": resolution, "width": size[0], "height": size[1]} in card["sizes"]
        server.until(lambda: server.http.get("/ready").status_code == 200, "a ready worker")
        answer = server.http.post(
            "/generate", json={"prompt": "a cat", "resolution": resolution, "duration": 1.0}
        )
        assert answer.status_code in (200, 201, 202), answer.text
        job = server.ended(answer.json()["job_id"])
        assert job["state"] == "succeeded", job
        assert "cropped" in [note["code"] for note in job["notes"]]
        assert (job["clip"]["width"], job["clip"]["height"]) == size
        assert job["timings"]["upscale_s"] > 0
        with av.open(io.BytesIO(server.http.get(job["clip"]["url"]).content)) as container:
            shown = [(frame.width, frame.height) for frame in container.decode(video=0)]
        assert shown == [size] * job["request"]["num_frames"]
    finally:
        server.kill()


def test_without_an_upscaler_it_is_refused_and_not_offered(http: httpx.Client) -> None:
    answer = http.post("/generate", json={"prompt": "a cat", "resolution": "1080p"})
    assert answer.status_code == 422
    assert answer.json()["code"] == "unsupported_by_recipe"
    assert "it draws: 480p, 480p-portrait" in answer.json()["detail"]
    asked = http.get("/ready", params={"resolution": "1080p"})
    assert (asked.status_code, asked.json()["code"]) == (422, "unsupported_by_recipe")
    assert asked.json()["detail"] == answer.json()["detail"]
    refused = http.post("/v1/videos", json={"prompt": "a cat", "size": "1920x1080"})
    assert refused.status_code == 400
    assert "it draws: 832x480, 480x832" in refused.json()["error"]["message"]


@pytest.mark.parametrize(("size", "resolution"), [("1920x1080", "1080p"), ("1080x1920", "1080p-portrait")])
def test_v1_videos_knows_the_sizes(tmp_path: Path, size: str, resolution: str) -> None:
    with ServerRig(tmp_path, recipe=TINY_RANDOM.with_upscaler()).serve() as http:
        video = http.post("/v1/videos", json={"prompt": "a cat", "size": size}).json()
        assert video["size"] == size
        assert http.get(f"/jobs/{video['id']}").json()["request"]["resolution"] == resolution


def test_each_size_is_judged_by_its_own_clips_in_ready_in_the_queue_and_against_a_deadline(
    tmp_path: Path,
) -> None:
    """A clip of 480p takes 0.43 s here, one of 1080p 5.33 s."""
    rig = ServerRig(tmp_path, recipe=TINY_RANDOM.with_upscaler())
    with rig.serve() as http, rig.worker_store() as worker_store:

        def ask(resolution: str, **fields: object) -> httpx.Response:
            body = {"prompt": "a cat", "duration": 1, "resolution": resolution} | fields
            return http.post("/generate", json=body, headers={"Prefer": "respond-async"})

        def eta_s(resolution: str) -> object:
            return http.get("/ready", params={"resolution": resolution}).json()["eta_s"]

        ask("480p")
        rig.finish(worker_store, rig.claim(worker_store))
        assert eta_s("480p-portrait") == pytest.approx(0.43)
        assert eta_s("1080p") is None, "no clip of that size was measured"
        assert ask("1080p", deadline_s=1).status_code == 202, "only what was measured refuses"
        rig.finish(worker_store, rig.claim(worker_store), decode_s=5.0)
        assert http.get("/ready").json()["eta_s"] == eta_s("480p") == pytest.approx(0.43)
        assert eta_s("1080p-portrait") == pytest.approx(5.33)
        assert ask("1080p-portrait", deadline_s=5).json()["code"] == "deadline_unmeetable"

        first, second, third = (ask(size).json() for size in ("1080p", "480p", "1080p-portrait"))
        queued = [job["progress"]["eta_s"] for job in (first, second, third)]
        assert queued == pytest.approx([5.33, 5.33 + 0.43, 5.33 + 0.43 + 5.33])
        assert eta_s("480p") == pytest.approx(2 * 5.33 + 2 * 0.43)
