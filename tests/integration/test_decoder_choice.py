"""A server that is to decode with a smaller decoder: without its file it says so, with it every record does."""

from pathlib import Path

from anime_studio.core.decoders import Decoder
from support.engine import checkpoint_in
from support.local_server import LocalServer
from support.smaller_decoders import tiny_weights, write_decoder


def test_a_laptop_waits_for_the_decoders_file_and_then_names_it(tmp_path: Path, tiny_checkpoint: Path):
    models = tmp_path / "models"
    checkpoint_in(models, tiny_checkpoint)
    server = LocalServer(tmp_path / "server", models, decoder="tiny")
    try:
        server.start()
        command = "anime-studio weights fetch --recipe tiny-random --decoder tiny"
        server.until(lambda: command in server.http.get("/ready").text, command)
        refused = server.post("a cat")
        assert refused.status_code == 503
        assert command in refused.json()["detail"]

        write_decoder(models, Decoder.TINY, tiny_weights())
        server.until(lambda: server.http.get("/ready").status_code == 200, "a ready worker")
        job = server.ended(server.submit()["job_id"])
        assert (job["state"], job["request"]["decoder"]) == ("succeeded", "tiny")
        assert server.http.get("/status").json()["decoder"] == "tiny"
    finally:
        server.kill()
