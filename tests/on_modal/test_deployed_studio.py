"""The deployed app as a whole: real containers on the uploaded files, from `POST /generate` to the bytes of an MP4."""

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import httpx
import modal
import pytest

from support.jobs import new_job
from support.modal_plane import Container, ControlPlane

REPOSITORY = Path(__file__).parents[2]
MODULE = ("-m", "anime_studio.modal_app")
OPERATOR_KEY = "o" * 43
KEYS = {"ANIME_STUDIO_SIGNING_KEYS": "k" * 43, "ANIME_STUDIO_OPERATOR_KEY": OPERATOR_KEY}
OPERATOR = {"Authorization": f"Bearer {OPERATOR_KEY}"}
SHELL = {
    "PYTHONPATH": "src",
    "ANIME_STUDIO_RECIPE": "tiny-random",
    "ANIME_STUDIO_GPU": "none",
    "ANIME_STUDIO_MAX_ATTEMPTS": "2",
    "ANIME_STUDIO_MAX_CONTAINERS": "1",
}
SHORT = {"prompt": "a cat on a roof", "duration": 0.5, "seed": 7}
LONG = {"prompt": "a cat on a roof", "duration": 5, "seed": 7, "num_inference_steps": 100}
HTTP_S = 100
pytestmark = [pytest.mark.modal, pytest.mark.slow, pytest.mark.usefixtures("private_root")]


@contextmanager
def deployed(tiny_checkpoint: Path, **changes: str) -> Iterator[ControlPlane]:
    with ControlPlane() as plane:
        plane.settings.extra_env["OMP_NUM_THREADS"] = "1"
        plane.secrets.create("anime-studio", KEYS)
        for path in tiny_checkpoint.rglob("*"):
            if path.is_file():
                name = f"tiny-random/random-0/{path.relative_to(tiny_checkpoint)}"
                plane.volumes.write("anime-models", name, path.read_bytes())
        plane.deploy(*MODULE, cwd=REPOSITORY, env=SHELL | changes)
        yield plane


@pytest.fixture(scope="module")
def plane(tiny_checkpoint: Path) -> Iterator[ControlPlane]:
    with deployed(tiny_checkpoint) as plane:
        yield plane


@pytest.fixture(scope="module")
def http(plane: ControlPlane) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=plane.app("anime-studio").function("web").web_url, timeout=HTTP_S) as http:
        yield http


def submit(http: httpx.Client, body: dict[str, Any], **headers: str) -> dict[str, Any]:
    answer = http.post("/generate", json=body, headers={"Prefer": "respond-async"} | headers)
    assert answer.status_code in (200, 202), answer.text
    return dict(answer.json())


def read(http: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    return dict(http.get(f"/jobs/{job['job_id']}").json())


def ended(plane: ControlPlane, http: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    final = ("succeeded", "failed", "cancelled")
    plane.wait_until(lambda: read(http, job)["state"] in final, "the job's end")
    return read(http, job)


def generated(plane: ControlPlane, http: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
    """Ask for a clip and wait: the server holds the answer, up to its bound, which a slow machine may outlast."""
    answer = http.post("/generate", json=body)
    assert answer.status_code in (200, 202), answer.text
    return dict(answer.json()) if answer.status_code == 200 else ended(plane, http, dict(answer.json()))


def rendering_container(
    plane: ControlPlane, http: httpx.Client, job: dict[str, Any], attempt: int = 1
) -> Container:
    """Wait until the job is at its steps for the given time, and return its container."""
    generator = plane.app("anime-studio").function("Generator")

    def at_its_steps() -> bool:
        lines = [line for c in generator.containers for line in c.log.splitlines() if job["job_id"] in line]
        begun = sum('"job.started"' in line for line in lines) == attempt
        return begun and read(http, job)["progress"]["step"] > 0

    plane.wait_until(at_its_steps, f"attempt {attempt} to render")
    return next(container for container in generator.containers if container.alive)


def files_of(plane: ControlPlane, clip_id: str) -> dict[str, bytes]:
    return {name: data for name, data in plane.volumes.read("anime-outputs").items() if clip_id in name}


def frames_in(mp4: bytes) -> int:
    with av.open(io.BytesIO(mp4)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_a_prompt_becomes_a_clip_behind_a_signed_link(plane: ControlPlane, http: httpx.Client):
    assert http.get("/ready").json()["status"] == "asleep"
    job = generated(plane, http, SHORT)
    assert job["state"] == "succeeded", job["error"]
    assert job["start_kind"] == "restored" and job["request"]["model_revision"] == "random-0"
    assert job["cost"]["usd"] > 0 and "2 cores + 2 GiB" in job["cost"]["basis"]
    assert job["timings"]["start_s"] > 0
    url = job["clip"]["url"]
    assert url.startswith(str(http.base_url).rstrip("/") + "/outputs/")
    whole = httpx.get(url)
    assert whole.headers["content-type"] == "video/mp4" and len(whole.content) == job["clip"]["size_bytes"]
    assert frames_in(whole.content) == job["clip"]["num_frames"]
    part = httpx.get(url, headers={"Range": "bytes=4-11"})
    assert part.status_code == 206 and part.content == whole.content[4:12]
    assert httpx.get(job["clip"]["poster_url"]).content[:2] == b"\xff\xd8"
    assert httpx.get(url.replace("signature=", "signature=A")).status_code in (400, 403)
    watch = job["clip"]["watch_url"]
    page = httpx.get(watch)
    assert page.status_code == 200 and f'<h1 dir="auto">{SHORT["prompt"]}</h1>' in page.text
    assert httpx.get(watch.replace("?", "/video?"), follow_redirects=True).content == whole.content
    again = generated(plane, http, SHORT)
    assert again["start_kind"] == "warm" and again["clip"]["sha256"] == job["clip"]["sha256"]
    assert http.get("/ready").json()["status"] == "ready"
    spent = http.get("/status").json()["spend"]["usd"]
    assert spent == pytest.approx(job["cost"]["usd"] + again["cost"]["usd"], abs=1e-6)


def test_the_operator_acts_with_the_key_and_nobody_without_it(plane: ControlPlane, http: httpx.Client):
    def act(action: str, **of: str) -> dict[str, Any]:
        done = http.post("/operator", json={"action": action, **of}, headers=OPERATOR)
        assert done.status_code == 200, done.text
        return dict(done.json())

    for headers in ({}, {"Authorization": f"Bearer {OPERATOR_KEY}x"}):
        for refused in (
            http.get("/operator", headers=headers),
            http.post("/operator", json={"action": "clear"}),
        ):
            assert refused.status_code == 401 and refused.json()["code"] == "operator_only"

    drawn = submit(http, LONG | {"requested_by": "mio"})
    with rendering_container(plane, http, drawn).stopped():
        waiting = [submit(http, LONG | {"seed": seed, "requested_by": "troll"}) for seed in (8, 9)]
        seen = http.get("/operator", headers=OPERATOR).json()
        open_jobs = [
            (job["requested_by"], job["prompt"])
            for job in seen["jobs"]
            if job["state"] in ("running", "queued")
        ]
        assert open_jobs == [("mio", LONG["prompt"]), *[("troll", LONG["prompt"])] * 2]
        assert act("cancel", requested_by="Troll")["changed"] == 2
        assert [ended(plane, http, job)["state"] for job in waiting] == ["cancelled"] * 2

        assert act("pause")["paused"]
        refused = http.post("/generate", json=SHORT)
        assert refused.status_code == 503 and refused.json()["code"] == "orders_paused"
        assert not act("resume")["paused"]
        act("cancel", job_id=drawn["job_id"])
    assert ended(plane, http, drawn)["state"] == "cancelled"

    on_air = generated(plane, http, SHORT | {"channel": "show-0123456789abcdef"})
    assert [clip["clip"]["clip_id"] for clip in clips_on_air(http)] == [on_air["clip"]["clip_id"]]
    act("hide", clip_id=on_air["clip"]["clip_id"])
    assert clips_on_air(http) == []


def clips_on_air(http: httpx.Client) -> list[dict[str, Any]]:
    return list(http.get("/channels/show-0123456789abcdef/clips").json()["clips"])


def test_past_the_days_budget_no_container_is_asked_for(tiny_checkpoint: Path):
    with (
        deployed(tiny_checkpoint, ANIME_STUDIO_BUDGET_USD_PER_DAY="0.000000001") as plane,
        httpx.Client(base_url=plane.app("anime-studio").function("web").web_url, timeout=HTTP_S) as http,
    ):
        assert generated(plane, http, SHORT)["cost"]["usd"] > 0.000000001
        calls = plane.traffic.log.count("FunctionMap")
        assert calls > 0
        refused = http.post("/generate", json=SHORT)
        assert refused.status_code == 503 and refused.json()["code"] == "budget_spent"
        assert plane.traffic.log.count("FunctionMap") == calls


def test_one_key_makes_one_job(plane: ControlPlane, http: httpx.Client):
    first, second = (submit(http, SHORT, **{"Idempotency-Key": "show-42"}) for _ in range(2))
    assert first["job_id"] == second["job_id"]
    assert ended(plane, http, first)["state"] == "succeeded"


@pytest.mark.parametrize("grace_s", [0, 30], ids=["at once", "with notice"])
def test_a_preempted_render_ends_in_one_clip(plane: ControlPlane, http: httpx.Client, grace_s: float):
    texts = plane.app("anime-studio").function("TextEncoder").record.function_id
    before = len(plane.calls.inputs(texts))
    job = submit(http, LONG)
    plane.preempt(rendering_container(plane, http, job), grace_s)
    final = ended(plane, http, job)
    assert final["state"] == "succeeded", final["error"]
    assert len(plane.calls.inputs(texts)) == before + 1, "the second attempt asks for the text of the first"
    names = files_of(plane, final["clip"]["clip_id"])
    assert sorted(Path(name).suffix for name in names) == [".jpg", ".json", ".mp4"]
    assert frames_in(httpx.get(final["clip"]["url"]).content) == 81


def test_containers_that_die_mid_job_leave_no_part_of_a_clip(plane: ControlPlane, http: httpx.Client):
    before = plane.volumes.read("anime-outputs")
    job = submit(http, LONG)
    for attempt in (1, 2):
        container = rendering_container(plane, http, job, attempt)
        plane.background_commit(container)
        plane.preempt(container)
    final = ended(plane, http, job)
    assert final["state"] == "failed" and final["error"]["code"] == "worker_died"
    assert job["job_id"] in final["error"]["detail"] and "modal app logs" in final["error"]["detail"]
    assert plane.volumes.read("anime-outputs") == before


def test_a_cancel_reaches_the_step_loop_and_the_container_goes_on(plane: ControlPlane, http: httpx.Client):
    job = submit(http, LONG)
    container = rendering_container(plane, http, job)
    with container.stopped():
        assert http.delete(f"/jobs/{job['job_id']}").status_code in (200, 202)
    final = ended(plane, http, job)
    assert (
        final["state"] == "cancelled" and final["error"]["code"] == "job_cancelled" and final["clip"] is None
    )
    assert generated(plane, http, SHORT)["start_kind"] == "warm"
    assert container.alive, "a cancel must not cost a cold start"


def test_a_waiting_job_is_cancelled_without_a_container(plane: ControlPlane, http: httpx.Client):
    running = submit(http, LONG)
    with rendering_container(plane, http, running).stopped():
        waiting = submit(http, SHORT)
        plane.wait_until(
            lambda: read(http, waiting)["queue_position"] == 0, "a fresh listing of waiting jobs"
        )
        gone = http.delete(f"/jobs/{waiting['job_id']}")
        assert gone.status_code == 200 and gone.json()["state"] == "cancelled"
        http.delete(f"/jobs/{running['job_id']}")
    ended(plane, http, running)
    logs = "".join(container.log for container in plane.app("anime-studio").function("Generator").containers)
    assert waiting["job_id"] not in logs, "no GPU second was spent on it"


def test_generate_returns_bytes_to_a_caller_outside(plane: ControlPlane):
    with plane.client():
        generator = modal.Cls.from_name("anime-studio", "Generator")()
        clip = generator.generate.remote("a cat on a roof", duration=0.5, seed=7)
        assert frames_in(clip) == 9
        with pytest.raises(RuntimeError, match="unsupported_by_recipe"):
            generator.generate.remote("a cat on a roof", duration=60)


def test_the_cleaner_deletes_expired_clips(plane: ControlPlane, http: httpx.Client):
    job = ended(plane, http, submit(http, SHORT))
    clip_id = job["clip"]["clip_id"]
    files = plane.volumes.named("anime-outputs").files  # type: ignore[union-attr]
    for name in [name for name in files if clip_id in name]:
        files[name] = replace(files[name], mtime_s=time.time() - 25 * 3600)
    clean = plane.app("anime-studio").function("clean")
    call_id = plane.run_schedule(clean)
    plane.wait_until(lambda: plane.calls.calls[call_id].done, "the cleaner")
    assert "clips.swept" in clean.containers[-1].log
    assert files_of(plane, clip_id) == {}
    plane.wait_until(
        lambda: httpx.get(job["clip"]["url"]).status_code == 410, "the web container to forget it"
    )


def test_modal_run_generates_one_clip_by_hand(plane: ControlPlane, tmp_path: Path):
    clip = tmp_path / "clip.mp4"
    arguments = ("--prompt", "a cat on a roof", "--duration", "0.5", "--seed", "7", "--out", str(clip))
    done = plane.cli("run", *MODULE, *arguments, cwd=REPOSITORY, env=SHELL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert frames_in(clip.read_bytes()) == 9
    assert "bytes, cold start, $" in done.stdout + done.stderr, "an app that is not deployed has no snapshots"


def test_setup_runs_on_modal_and_says_what_is_complete(plane: ControlPlane):
    done = plane.cli(
        "run", "-m", "anime_studio.modal_app::setup", "--recipe", "demo", cwd=REPOSITORY, env=SHELL
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "demo: revision tiny-wan-5 is complete" in done.stdout
    assert "demo: prepared for fast loading in tiny-wan-5." in done.stdout


IMPORTS = {
    "Generator": "on_modal.gpu_worker on_modal.remote_text on_modal.worker_store on_modal.clips prove.container "
    "engine.engine",
    "Prover": "prove.container prove.engine_rows",
    "TextEncoder": "on_modal.text_worker engine.startup",
    "setup": "checkpoints.store checkpoints.prepared engine.loading.prepare",
    "web": "",
    "clean": "",
}


@pytest.mark.parametrize("name", IMPORTS)
def test_a_container_holds_every_module_it_imports(plane: ControlPlane, name: str):
    modules = ["anime_studio.modal_app", *(f"anime_studio.{module}" for module in IMPORTS[name].split())]
    check = f"import sys, {', '.join(modules)}; print('torch' in sys.modules, 'fastapi' in sys.modules)"
    function = plane.app("anime-studio").function(name)
    done = plane.python(function, "-c", check)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        str(name in ("Generator", "Prover", "TextEncoder", "setup")),
        str(name in ("web", "clean")),
    ]
    assert [
        container.missing_packages for container in function.containers if container.missing_packages
    ] == []


def test_deployed_by_file_it_serves_and_renders_too(tiny_checkpoint: Path):
    with ControlPlane() as plane:
        plane.settings.extra_env["OMP_NUM_THREADS"] = "1"
        plane.secrets.create("anime-studio", KEYS)
        demo = SHELL | {"ANIME_STUDIO_RECIPE": "demo", "ANIME_STUDIO_SNAPSHOT": "off"}
        plane.deploy("src/anime_studio/modal_app.py", cwd=REPOSITORY, env=demo)
        with httpx.Client(base_url=plane.app("anime-studio").function("web").web_url, timeout=HTTP_S) as http:
            job = generated(plane, http, {"prompt": "a cat on a roof", "num_inference_steps": 4})
        assert job["state"] == "succeeded" and job["start_kind"] == "cold", job["error"]
        assert frames_in(httpx.get(job["clip"]["url"]).content) == 81


def test_without_weights_it_deploys_says_what_is_missing_and_wakes_nothing(control_plane: ControlPlane):
    plane, remedy = control_plane, "modal run -m anime_studio.modal_app::setup --recipe fastwan-3step"
    plane.secrets.create("anime-studio", KEYS)
    without_weights = {
        "ANIME_STUDIO_RECIPE": "fastwan-3step",
        "ANIME_STUDIO_SNAPSHOT": "cpu",
        "ANIME_STUDIO_GPU": "L4",
    }
    plane.deploy(*MODULE, cwd=REPOSITORY, env=SHELL | without_weights)
    app = plane.app("anime-studio")
    with httpx.Client(base_url=app.function("web").web_url, timeout=HTTP_S) as http:
        assert http.get("/health").status_code == 200
        ready = http.get("/ready")
        assert ready.status_code == 503 and remedy in ready.json()["detail"]
        refused = http.post("/generate", json={"prompt": "a cat", "duration": 5})
        assert refused.status_code == 503 and refused.json()["code"] == "weights_missing"
        assert remedy in refused.json()["detail"]
        assert app.function("Generator").containers == [], "no GPU was woken to find out"
        with plane.client():  # a container that is started all the same answers, and does not crash
            generator = modal.Cls.from_name("anime-studio", "Generator")()
            answer = generator.render.remote(new_job().model_dump(mode="json"))
            with pytest.raises(RuntimeError, match=f"weights_missing.*{remedy}"):
                generator.generate.remote("a cat on a roof")
        assert answer["record"]["state"] == "failed" and remedy in answer["record"]["error"]["detail"]
        assert len(app.function("Generator").containers) == 1
        for name in ("tiny-random/random-0/complete", "fastwan-3step/0123abcd.partial/model_index.json"):
            plane.volumes.write("anime-models", name, b"")
        assert http.get("/ready").status_code == 503, "neither another recipe's weights nor half of these"
        plane.volumes.write("anime-models", "fastwan-3step/0123abcd/complete", b"")
        assert http.get("/ready").status_code == 200


@pytest.mark.timeout(300)  # three containers start one after another
def test_when_no_gpu_works_the_job_fails_with_the_reason_after_three_starts(
    control_plane: ControlPlane, tiny_checkpoint: Path
):
    plane = control_plane
    plane.settings.extra_env["OMP_NUM_THREADS"] = "1"
    plane.secrets.create("anime-studio", KEYS)
    for path in filter(Path.is_file, tiny_checkpoint.rglob("*")):
        name = f"tiny-random/random-0/{path.relative_to(tiny_checkpoint)}"
        plane.volumes.write("anime-models", name, path.read_bytes())
    plane.deploy(
        *MODULE, cwd=REPOSITORY, env=SHELL | {"ANIME_STUDIO_GPU": "L4", "ANIME_STUDIO_SNAPSHOT": "off"}
    )
    app = plane.app("anime-studio")
    with httpx.Client(base_url=app.function("web").web_url, timeout=HTTP_S) as http:
        final = ended(plane, http, submit(http, SHORT))
        assert final["state"] == "failed" and "no CUDA driver" in final["error"]["detail"]
        assert len(app.function("Generator").containers) == 3
        ready = http.get("/ready")
        assert ready.status_code == 503 and "no GPU that Modal gave works" in ready.json()["detail"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"RECIPE": "nope"}, "there is no recipe 'nope'"),
        ({"GPU": "L400"}, "no price is known for GPU 'L400'"),
        ({"GPU": "L4:4"}, "rendered on one GPU"),
        ({"GPU": "none", "RECIPE": "fastwan-3step"}, "needs a GPU"),
        ({"GPU": "T4", "RECIPE": "fastwan-3step"}, "needs bfloat16"),
        ({"GPU": "L4", "DEVICE": "cpu"}, "idle and billed"),
        ({"MIN_CONTAINERS": "3", "MAX_CONTAINERS": "2"}, "is more than"),
    ],
)
def test_a_deploy_with_wrong_settings_stops_with_words(
    control_plane: ControlPlane, wrong: dict[str, str], words: str
):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MODAL_", "ANIME_STUDIO_"))}
    env |= (
        control_plane.client_env() | SHELL | {f"ANIME_STUDIO_{name}": value for name, value in wrong.items()}
    )
    for command in (["anime_studio.cli", "deploy"], ["modal", "deploy", "-m", "anime_studio.modal_app"]):
        done = subprocess.run(
            [sys.executable, "-m", *command],
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            env=env,
            timeout=100,
        )
        assert done.returncode != 0 and words in " ".join((done.stdout + done.stderr).split())
    assert "AppCreate" not in control_plane.traffic.log, "before anything was built"


def test_the_command_line_makes_the_secret_and_deploys(control_plane: ControlPlane, tmp_path: Path):
    def studio(*arguments: str) -> subprocess.CompletedProcess[str]:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("MODAL_", "ANIME_STUDIO_"))}
        command = [sys.executable, "-m", "anime_studio.cli", *arguments]
        env |= control_plane.client_env() | {"TERM": "dumb"}
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env, timeout=100)

    refused = studio("deploy")
    assert refused.returncode == 2 and "anime-studio keys new" in refused.stderr
    assert not [rpc for rpc in control_plane.traffic.log if rpc == "AppCreate"], "before anything was built"
    assert studio("keys", "new").returncode == 0
    key = _keys(control_plane)["ANIME_STUDIO_SIGNING_KEYS"]
    assert len(key) >= 32
    assert "modal deploy -m anime_studio.modal_app" in studio("deploy", "--dry-run").stderr
    deployed = studio("deploy")
    assert deployed.returncode == 0, deployed.stderr
    assert control_plane.app("anime-studio").classes == ["Generator", "Prover", "TextEncoder"]
    assert studio("keys", "new").returncode == 0
    made = studio("keys", "operator", "--json")
    assert made.returncode == 0, made.stderr
    key_of_operator = json.loads(made.stdout)["operator_key"]
    assert _keys(control_plane).pop("ANIME_STUDIO_OPERATOR_KEY") == key_of_operator
    assert len(_keys(control_plane)) == 2 and _keys(control_plane)["ANIME_STUDIO_SIGNING_KEYS"] == key


def _keys(plane: ControlPlane) -> dict[str, str]:
    (secret,) = [s for s in plane.secrets._by_id.values() if s.name == "anime-studio"]
    return secret.env
