"""The deployed app follows the weights that `modal run …::use` names, in real containers."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from anime_studio.checkpoints.store import Checkpoint
from anime_studio.engine.loading.prepare import packing_of, prepare
from anime_studio.engine.loading.tiny_random import write_tiny_random
from support.modal_plane import Container, ControlPlane

REPOSITORY = Path(__file__).parents[2]
SHELL = {"PYTHONPATH": "src", "ANIME_STUDIO_RECIPE": "tiny-random", "ANIME_STUDIO_GPU": "none"}
OLD, NEW, GONE = "random-0", "b" * 40, "c" * 40
IN_USE = "tiny-random/in_use"
SHORT = {"prompt": "a cat on a roof", "duration": 0.5, "seed": 7}
LONG = {"prompt": "a cat on a roof", "duration": 5, "seed": 7, "num_inference_steps": 100}
pytestmark = [
    pytest.mark.modal,
    pytest.mark.slow,
    pytest.mark.usefixtures("private_root"),
    pytest.mark.timeout(400),
]


@pytest.fixture(scope="module")
def plane(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    models = tmp_path_factory.mktemp("models")
    shutil.copytree(tiny_checkpoint, models / "tiny-random" / OLD)
    write_tiny_random(models / "tiny-random" / NEW, seed=1)
    for revision in (
        OLD,
        NEW,
    ):  # as `setup` does; a source that is loaded on a CPU stays open, and nothing is seen anew
        prepare(Checkpoint.at(models / "tiny-random" / revision), packing_of("cpu"))
    with ControlPlane() as plane:
        plane.settings.extra_env["OMP_NUM_THREADS"] = "1"
        plane.secrets.create("anime-studio", {"ANIME_STUDIO_SIGNING_KEYS": "k" * 43})
        for path in filter(Path.is_file, models.rglob("*")):
            plane.volumes.write("anime-models", str(path.relative_to(models)), path.read_bytes())
        plane.deploy(
            "-m", "anime_studio.modal_app", cwd=REPOSITORY, env=SHELL | {"ANIME_STUDIO_MAX_CONTAINERS": "1"}
        )
        yield plane


@pytest.fixture(scope="module")
def http(plane: ControlPlane) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=plane.app("anime-studio").function("web").web_url, timeout=100) as http:
        yield http


def submit(http: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
    answer = http.post("/generate", json=body, headers={"Prefer": "respond-async"})
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


def read(http: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    return dict(http.get(f"/jobs/{job['job_id']}").json())


def ended(plane: ControlPlane, http: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    plane.wait_until(
        lambda: read(http, job)["state"] in ("succeeded", "failed", "cancelled"), "the job's end"
    )
    final = read(http, job)
    assert final["state"] == "succeeded", final["error"]
    return final


def revision_of(job: dict[str, Any]) -> str:
    return str(job["request"]["model_revision"])


def container_of(plane: ControlPlane) -> Container:
    return next(each for each in plane.app("anime-studio").function("Generator").containers if each.alive)


def name(plane: ControlPlane, revision: str) -> None:
    plane.volumes.write("anime-models", IN_USE, f"{revision}\n".encode())


def test_weights_named_while_a_job_draws_are_the_next_jobs(plane: ControlPlane, http: httpx.Client):
    first = submit(http, LONG)
    plane.wait_until(lambda: read(http, first)["progress"]["step"] > 0, "the first step")
    with container_of(plane).stopped():
        name(plane, NEW)
        assert read(http, first)["state"] == "running", "the job ended before the weights were named"
    second = submit(http, SHORT)
    first, second = ended(plane, http, first), ended(plane, http, second)

    assert (revision_of(first), revision_of(second)) == (OLD, NEW)
    assert first["notes"] == []
    (note,) = second["notes"]
    assert note["detail"] == f"new weights ({NEW}); starts are slower until the next deploy"
    assert second["start_kind"] == "warm", "by the container that drew the old ones"
    status = http.get("/status").json()
    assert status["model_revision"] == NEW and status["weights_note"] == note["detail"]


def test_weights_that_are_not_there_leave_those_that_are(plane: ControlPlane, http: httpx.Client):
    before = revision_of(ended(plane, http, submit(http, SHORT)))
    name(plane, GONE)
    after = [ended(plane, http, submit(http, SHORT)) for _ in range(2)]

    assert [revision_of(job) for job in after] == [before, before]
    assert all(GONE in job["notes"][-1]["detail"] for job in after)
    assert container_of(plane).log.count('"weights.refused"') == 1
    name(plane, before)


def test_a_container_that_dies_while_it_loads_new_weights_costs_no_job(
    plane: ControlPlane, http: httpx.Client
):
    before = revision_of(ended(plane, http, submit(http, SHORT)))
    after = OLD if before == NEW else NEW
    container = container_of(plane)
    begun = container.log.count('"weights.swapping"')
    name(plane, after)
    job = submit(http, LONG)
    plane.wait_until(
        lambda: container.log.count('"weights.swapping"') > begun, "the new weights to be loaded"
    )
    assert read(http, job)["state"] == "running"
    plane.preempt(container)
    final = ended(plane, http, job)

    assert revision_of(final) == after and not container.alive
    files = [path for path in plane.volumes.read("anime-outputs") if final["clip"]["clip_id"] in path]
    assert sorted(Path(path).suffix for path in files) == [".jpg", ".json", ".mp4"]


def test_the_function_that_names_weights_checks_them_first(plane: ControlPlane):
    refused = plane.cli(
        "run", "-m", "anime_studio.modal_app::use", "--revision", GONE, cwd=REPOSITORY, env=SHELL
    )
    assert refused.returncode != 0 and GONE in refused.stdout + refused.stderr

    done = plane.cli("run", "-m", "anime_studio.modal_app::use", "--revision", NEW, cwd=REPOSITORY, env=SHELL)

    assert done.returncode == 0, done.stdout + done.stderr
    assert plane.volumes.read("anime-models")[IN_USE] == f"{NEW}\n".encode()
