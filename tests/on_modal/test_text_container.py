"""A job's text comes from a container of its own: whichever wakes first, and whatever becomes of it."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from anime_studio.on_modal.settings import ModalSettings
from anime_studio.on_modal.text_worker import TextWorker
from support.engine import spec_of, tiny_engine
from support.modal_plane import Container, ControlPlane, DeployedFunction

REPOSITORY = Path(__file__).parents[2]
SHELL = {"PYTHONPATH": "src", "ANIME_STUDIO_RECIPE": "tiny-random", "ANIME_STUDIO_GPU": "none"}
SHORT = {"prompt": "a cat on a roof", "duration": 0.5, "seed": 7}
FINAL = ("succeeded", "failed", "cancelled")
pytestmark = [
    pytest.mark.modal,
    pytest.mark.timeout(300),
]  # up to three containers import torch, one after another


class Studio:
    """A deployed app whose containers start when a test says so."""

    def __init__(self, plane: ControlPlane, http: httpx.Client) -> None:
        self.plane, self.http = plane, http

    @property
    def text(self) -> DeployedFunction:
        return self.plane.app("anime-studio").function("TextEncoder")

    @property
    def generator(self) -> DeployedFunction:
        return self.plane.app("anime-studio").function("Generator")

    @property
    def text_calls(self) -> list[str]:
        return [each.call_id for each in self.plane.calls.inputs(self.text.record.function_id)]

    def submit(self) -> dict[str, Any]:
        answer = self.http.post("/generate", json=SHORT, headers={"Prefer": "respond-async"})
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    def start(self, function: DeployedFunction) -> Container:
        container = self.plane.start_container(function)
        self.plane.wait_until(lambda: container.asked_for_input, "the container to be ready")
        return container

    def until_it_waits_for_text(self, job: dict[str, Any]) -> None:
        self.plane.wait_until(lambda: self._read(job)["stage"] == "text", "the render to wait for its text")

    def ended(self, job: dict[str, Any]) -> dict[str, Any]:
        self.plane.wait_until(lambda: self._read(job)["state"] in FINAL, "the job's end")
        return self._read(job)

    def _read(self, job: dict[str, Any]) -> dict[str, Any]:
        return dict(self.http.get(f"/jobs/{job['job_id']}").json())


@pytest.fixture(scope="module")
def plane(tiny_checkpoint: Path) -> Iterator[ControlPlane]:
    with ControlPlane() as plane:
        plane.settings.extra_env["OMP_NUM_THREADS"] = "1"
        plane.secrets.create("anime-studio", {"ANIME_STUDIO_SIGNING_KEYS": "k" * 43})
        for path in filter(Path.is_file, tiny_checkpoint.rglob("*")):
            name = f"tiny-random/random-0/{path.relative_to(tiny_checkpoint)}"
            plane.volumes.write("anime-models", name, path.read_bytes())
        plane.deploy("-m", "anime_studio.modal_app", cwd=REPOSITORY, env=SHELL)
        yield plane


@pytest.fixture
def studio(plane: ControlPlane, private_root: None) -> Iterator[Studio]:
    web = plane.app("anime-studio").function("web")
    with httpx.Client(base_url=web.web_url, timeout=100) as http:
        plane.settings.autoscale = True
        assert http.get("/health").status_code == 200  # the web container starts by itself
        plane.settings.autoscale = False
        studio = Studio(plane, http)
        yield studio
        for container in (*studio.text.containers, *studio.generator.containers):
            if container.alive:
                plane.preempt(container)


@pytest.mark.slow
def test_text_is_encoded_before_the_gpu_container_is_there(studio: Studio):
    job = studio.submit()
    studio.start(studio.text)
    (call_id,) = studio.text_calls[-1:]
    studio.plane.wait_until(lambda: studio.plane.calls.calls[call_id].done, "the text")
    studio.start(studio.generator)

    final = studio.ended(job)

    assert final["state"] == "succeeded", final["error"]
    assert studio.text_calls[-1] == call_id, "no other call was made"


@pytest.mark.slow
def test_both_containers_wake_for_one_job(studio: Studio):
    studio.plane.settings.autoscale = True
    job = studio.submit()
    calls = studio.text_calls

    final = studio.ended(job)

    studio.plane.settings.autoscale = False
    assert final["state"] == "succeeded", final["error"]
    assert [len([c for c in each.containers if c.alive]) for each in (studio.text, studio.generator)] == [
        1,
        1,
    ]
    assert studio.text_calls == calls, "the call that was started with the job gave its text"


@pytest.mark.slow
def test_a_gpu_container_that_is_there_first_waits_for_the_text(studio: Studio):
    studio.start(studio.generator)
    job = studio.submit()
    calls = studio.text_calls
    studio.until_it_waits_for_text(job)
    studio.start(studio.text)

    final = studio.ended(job)

    assert final["state"] == "succeeded", final["error"]
    assert studio.text_calls == calls


@pytest.mark.slow
def test_a_preempted_render_asks_for_the_same_text_again(studio: Studio):
    encoder = studio.start(studio.text)
    os.killpg(encoder.pid, signal.SIGSTOP)
    job = studio.submit()
    calls = studio.text_calls
    first = studio.start(studio.generator)
    studio.until_it_waits_for_text(job)
    studio.plane.preempt(first)
    os.killpg(encoder.pid, signal.SIGCONT)
    studio.start(studio.generator)

    final = studio.ended(job)

    assert final["state"] == "succeeded", final["error"]
    assert studio.text_calls == calls
    (text,) = studio.plane.calls.calls[calls[-1]].inputs
    assert len(text.deliveries) == 1, "the text was encoded once"


@pytest.mark.slow
def test_two_jobs_with_one_prompt_become_the_same_clip(studio: Studio):
    jobs = [studio.submit(), studio.submit()]
    studio.start(studio.text)
    studio.start(studio.generator)

    finals = [studio.ended(job) for job in jobs]

    assert [final["state"] for final in finals] == ["succeeded"] * 2
    first, second = (studio.http.get(final["clip"]["url"]).content for final in finals)
    assert first == second and first[4:8] == b"ftyp"


@pytest.mark.slow
def test_a_render_waits_for_a_text_container_that_is_killed_in_mid_call(studio: Studio):
    encoder = studio.start(studio.text)
    os.killpg(encoder.pid, signal.SIGSTOP)  # it is given the text, and does nothing with it
    job = studio.submit()
    studio.start(studio.generator)
    studio.until_it_waits_for_text(job)
    (text,) = studio.plane.calls.calls[studio.text_calls[-1]].inputs
    studio.plane.wait_until(lambda: text.running, "the container to be given the text")
    studio.plane.preempt(encoder)
    studio.start(studio.text)

    final = studio.ended(job)

    assert final["state"] == "succeeded", final["error"]
    assert len(text.deliveries) == 2


@pytest.mark.slow
def test_text_that_is_lost_is_asked_for_once_more_and_then_the_job_may_be_tried_again(studio: Studio):
    job = studio.submit()
    first = studio.text_calls[-1]
    generator = studio.start(studio.generator)
    studio.until_it_waits_for_text(job)
    studio.plane.lose(first)
    studio.plane.wait_until(lambda: studio.text_calls[-1] != first, "the second call")
    studio.plane.crash(studio.text_calls[-1], "container exited rc=137")

    failed = studio.ended(job)

    assert failed["state"] == "failed"
    assert failed["error"]["code"] == "unavailable" and failed["error"]["retryable"]
    assert "rc=137" in failed["error"]["detail"]
    assert generator.alive, "the GPU container takes the next job"
    again = studio.submit()
    studio.until_it_waits_for_text(again)
    studio.plane.lose(studio.text_calls[-1])
    studio.start(studio.text)
    assert studio.ended(again)["state"] == "succeeded"


@pytest.mark.slow
def test_a_cancel_reaches_a_render_that_waits_for_its_text(studio: Studio):
    job = studio.submit()
    generator = studio.start(studio.generator)
    studio.until_it_waits_for_text(job)

    studio.http.delete(f"/jobs/{job['job_id']}")

    assert studio.ended(job)["state"] == "cancelled"
    assert generator.alive


@pytest.fixture
def settings(tiny_checkpoint: Path, tmp_path: Path) -> ModalSettings:
    shutil.copytree(tiny_checkpoint, tmp_path / "models" / "tiny-random" / "random-0")
    return ModalSettings(recipe="tiny-random", gpu=None, device="cpu", models_dir=tmp_path / "models")


def test_the_text_of_a_container_is_what_an_engine_encodes_itself(
    settings: ModalSettings, tiny_checkpoint: Path
):
    from anime_studio.engine.text import EncodedText

    worker = TextWorker(settings)
    worker.load()
    engine = tiny_engine(tiny_checkpoint)
    for guidance_scale in (None, 4.0):
        spec = spec_of(guidance_scale=guidance_scale, num_inference_steps=2)
        spec = spec.model_copy(update={"prompt_used": "a cat"})
        answer = worker.encode(spec.model_dump(mode="json"))
        reads = engine.recipe.max_sequence_length

        ours, theirs = EncodedText.from_bytes(answer["text"], reads), engine.text.text_of(spec)

        assert torch.equal(ours.prompt, theirs.prompt) and ours.num_tokens == theirs.num_tokens
        assert (ours.negative is None) == (theirs.negative is None) == (guidance_scale is None)
        assert ours.negative is None or torch.equal(ours.negative, theirs.negative)
        assert len(answer["text"]) < theirs.prompt.nbytes, "without the zeros after the tokens"


def test_two_jobs_with_one_prompt_are_encoded_once(settings: ModalSettings):
    worker = TextWorker(settings)
    worker.load()
    spec = spec_of().model_dump(mode="json")
    first = worker.encode(spec)

    def broken(*_: object) -> None:
        raise RuntimeError("only the cache can answer now")

    worker._encoder._text_encoder.register_forward_pre_hook(broken)  # type: ignore[union-attr]

    assert worker.encode(spec) == first
    assert worker.encode(spec_of(prompt="another").model_dump(mode="json")).keys() == {"problem"}


def test_without_weights_each_call_answers_the_command_and_weights_fetched_later_are_found(
    settings: ModalSettings, tmp_path: Path
):
    folder = settings.models_dir / "tiny-random"
    folder.rename(tmp_path / "aside")
    worker = TextWorker(settings)
    worker.load()
    problem = worker.encode(spec_of().model_dump(mode="json"))["problem"]
    assert problem["code"] == "weights_missing" and "modal_app::setup" in problem["detail"]

    (tmp_path / "aside").rename(folder)
    worker.load()

    assert "text" in worker.encode(spec_of().model_dump(mode="json"))
