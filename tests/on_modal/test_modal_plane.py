"""The control plane of `support.modal_plane` keeps the rules of Modal that our own tests rely on.

Each rule is Modal's: the package's docstring names its source. A small app is deployed and run by the real client.
"""

from collections.abc import Iterator
from pathlib import Path

import httpx
import modal
import pytest
from grpclib import Status

from support.modal_plane import ControlPlane, DeployedApp

pytestmark = [pytest.mark.modal, pytest.mark.slow, pytest.mark.usefixtures("private_root")]

REPOSITORY = Path(__file__).parents[2]
HEADER = 'import modal\napp = modal.App("tiny")\nimage = modal.Image.debian_slim(python_version="3.12")\n'
SAMPLE = """
import os, time
from pathlib import Path
import modal
import neighbour

image = modal.Image.debian_slim(python_version="3.12").add_local_python_source("neighbour")
clips = modal.Volume.from_name("clips", create_if_missing=True)
models = modal.Volume.from_name("models", create_if_missing=True)
records = modal.Dict.from_name("records", create_if_missing=True)
app = modal.App("sample", image=image)

@app.function(volumes={"/models": models.with_mount_options(read_only=True)})
def look(hidden: str) -> dict:
    try:
        Path("/models/new").touch()
    except OSError as error:
        refused = type(error).__name__
    found = {"root": sorted(path.name for path in Path("/root").glob("*.py")), "hidden": Path(hidden).exists()}
    return found | {"local": modal.is_local(), "models": os.listdir("/models"), "write": refused}

@app.function(timeout=3)
def act(what: str) -> str:
    if what == "raise": raise KeyError("boom")
    if what == "die": os._exit(1)
    if what == "outlast": time.sleep(600)
    return what

@app.function(max_containers=1)
def wait() -> None:
    records["started"] = True
    try: time.sleep(600)
    finally: records["cleaned"] = True

@app.cls(volumes={"/clips": clips}, secrets=[modal.Secret.from_name("keys", required_keys=["KEY"])],
         enable_memory_snapshot=True, max_containers=1)
class Generator:
    @modal.enter(snap=True)
    def load(self) -> None:
        self.order, self.loaded_in = ["load"], os.environ["MODAL_TASK_ID"]

    @modal.enter(snap=False)
    def wake(self) -> None:
        self.order.append("wake")

    @modal.method()
    def render(self, name: str) -> dict:
        Path("/clips", name).write_text("half")
        records["attempts"] = records.get("attempts", 0) + 1
        while not records.get("go", False): time.sleep(0.05)
        Path("/clips", name).write_text("whole")
        clips.commit()
        restored = self.loaded_in != os.environ["MODAL_TASK_ID"]
        return {"order": self.order, "restored": restored, "key": os.environ["KEY"]}

@app.function()
@modal.asgi_app()
def web():
    async def serve(scope, receive, send) -> None:
        if scope["type"] != "http": return
        size = len((await receive())["body"])
        await send({"type": "http.response.start", "status": 201, "headers": [(b"x-query", scope["query_string"])]})
        for part in (str(size), await web.get_web_url.aio()):
            await send({"type": "http.response.body", "body": f"{part}\\n".encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    return serve
"""


def deploy_tiny(plane: ControlPlane, folder: Path, body: str) -> None:
    (folder / "neighbour.py").write_text("")
    (folder / "tiny.py").write_text(HEADER + body)
    plane.deploy("tiny.py", cwd=folder)


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    folder = tmp_path_factory.mktemp("sample")
    (folder / "sample.py").write_text(SAMPLE)
    (folder / "neighbour.py").write_text("")
    with ControlPlane() as plane:
        plane.secrets.create("keys", {"KEY": "s3cret"})
        plane.volumes.write("models", "/weights.bin", b"w")
        plane.deploy("sample.py", cwd=folder)
        yield plane


@pytest.fixture
def plane(deployed: ControlPlane) -> Iterator[ControlPlane]:
    """The deployed sample, with no container and no record left from the test before, and this process as a client."""
    for container in deployed.containers.all.values():
        if container.alive:
            deployed.stop_container(container)
    with deployed.client():
        records().clear()
        yield deployed


@pytest.fixture
def app(plane: ControlPlane) -> DeployedApp:
    return plane.app("sample")


def function(name: str, app: str = "sample") -> modal.Function:
    return modal.Function.from_name(app, name)


def generator() -> modal.Cls:
    return modal.Cls.from_name("sample", "Generator")


def records() -> modal.Dict:
    return modal.Dict.from_name("records", create_if_missing=True)


def test_a_container_sees_the_uploaded_files_and_nothing_else_of_this_machine(plane: ControlPlane):
    seen = function("look").remote(str(REPOSITORY / "pyproject.toml"))
    assert seen == {
        "root": ["neighbour.py", "sample.py"],
        "hidden": False,
        "local": False,
        "models": ["weights.bin"],
        "write": "OSError",
    }


STEPS = {"neighbour": 'add_local_python_source("neighbour")', "pydantic": 'uv_pip_install("pydantic")'}


@pytest.mark.parametrize("module", STEPS)
def test_a_module_that_the_image_does_not_hold_fails_the_call(
    control_plane: ControlPlane, tmp_path: Path, module: str
):
    body = f"import {module}\n@app.function(image=IMAGE)\ndef f(): return {module}.__name__\n"
    deploy_tiny(control_plane, tmp_path, body.replace("IMAGE", "image"))
    with control_plane.client(), pytest.raises(ModuleNotFoundError, match=module):
        function("f", "tiny").remote()
    deploy_tiny(control_plane, tmp_path, body.replace("IMAGE", f"image.{STEPS[module]}"))
    with control_plane.client():
        assert function("f", "tiny").remote() == module


@pytest.mark.parametrize(
    ("what", "trouble", "error"),
    [
        ("raise", None, KeyError),
        ("die", None, modal.exception.InternalFailure),
        ("outlast", None, modal.exception.FunctionTimeoutError),
        ("wait", "lose", modal.exception.InternalFailure),
        ("wait", "expire", modal.exception.OutputExpiredError),
        ("wait", "cancel", modal.exception.RemoteError),
    ],
)
def test_a_call_is_pending_until_it_ends_and_each_end_has_its_own_error(
    plane: ControlPlane, what: str, trouble: str | None, error: type[Exception]
):
    plane.settings.autoscale = False
    try:
        call = function("act").spawn(what)
        with pytest.raises(TimeoutError):
            call.get(timeout=0)
        stats = function("act").get_current_stats()
        assert (stats.backlog, stats.num_total_runners, stats.num_running_inputs) == (1, 0, 0)
        if trouble == "cancel":
            call.cancel()
        elif trouble is not None:
            getattr(plane, trouble)(call.object_id)
    finally:
        plane.settings.autoscale = True
    if trouble is None:
        plane.start_container(plane.app("sample").function("act"))
    with pytest.raises(error):
        call.get(timeout=100 if trouble is None else 0)


def test_a_cancel_interrupts_the_running_call_and_its_container_goes_on(
    plane: ControlPlane, app: DeployedApp
):
    call = function("wait").spawn()
    plane.wait_until(lambda: records().get("started"), "the call to run")
    call.cancel()
    with pytest.raises(modal.exception.RemoteError):
        call.get(timeout=100)
    plane.wait_until(lambda: records().get("cleaned"), "the finally block to run")
    assert app.function("wait").containers[-1].alive


@pytest.mark.parametrize("snapshots", [True, False])
def test_hooks_run_in_order_with_a_snapshot_between_them_or_nothing(plane: ControlPlane, snapshots: bool):
    plane.settings.snapshots, records()["go"] = snapshots, True
    try:
        seen = generator()().render.remote("a.mp4")
    finally:
        plane.settings.snapshots = True
    assert seen == {"order": ["load", "wake"], "restored": snapshots, "key": "s3cret"}
    assert plane.volumes.read("clips")["a.mp4"] == b"whole"


@pytest.mark.parametrize("grace_s", [0, 60])
def test_a_preempted_call_runs_again_and_only_an_end_with_notice_commits(
    plane: ControlPlane, app: DeployedApp, grace_s: float
):
    name = f"{grace_s}.mp4"
    call = generator()().render.spawn(name)
    plane.wait_until(lambda: records().get("attempts") == 1, "the first attempt")
    plane.preempt(app.function("Generator").containers[-1], grace_s)
    assert plane.volumes.read("clips").get(name) == (b"half" if grace_s else None)
    with pytest.raises(TimeoutError):
        call.get(timeout=0)
    plane.wait_until(lambda: records().get("attempts") == 2, "the second attempt")
    plane.background_commit(app.function("Generator").containers[-1])
    assert plane.volumes.read("clips")[name] == b"half", "Modal commits what is there, whole or not"
    records()["go"] = True
    call.get(timeout=100)
    assert plane.volumes.read("clips")[name] == b"whole"


def test_a_web_function_is_given_the_request_and_streams_its_response(plane: ControlPlane, app: DeployedApp):
    url = app.function("web").web_url
    answer = httpx.post(f"{url}/any?a=%20", content=b"x" * 3_000_000, timeout=100)
    assert answer.status_code == 201 and answer.headers["x-query"] == "a=%20"
    assert answer.text == f"3000000\n{url}\n"


def test_a_container_that_cannot_start_fails_what_waits_for_it(control_plane: ControlPlane, tmp_path: Path):
    body = "@app.function(image=image)\ndef f(): ...\nif not modal.is_local(): raise ValueError('no keys')\n"
    deploy_tiny(control_plane, tmp_path, body)
    with control_plane.client(), pytest.raises(ValueError, match="no keys"):
        function("f", "tiny").remote()


def test_a_volume_is_read_listed_and_emptied_from_outside(control_plane: ControlPlane):
    large = bytes(range(256)) * 40_000  # more than one block of 8 MiB
    control_plane.volumes.write("models", "/a/large.bin", large)
    control_plane.volumes.write("models", "/small.txt", b"small")
    with control_plane.client():
        volume = modal.Volume.from_name("models")
        assert b"".join(volume.read_file("a/large.bin")) == large
        assert [entry.path for entry in volume.listdir("/")] == ["a", "small.txt"]
        assert [entry.path for entry in volume.listdir("/", recursive=True)] == [
            "a",
            "a/large.bin",
            "small.txt",
        ]
        volume.remove_file("small.txt")
        for missing in (volume.remove_file, lambda name: b"".join(volume.read_file(name))):
            with pytest.raises(FileNotFoundError):
                missing("small.txt")
        with pytest.raises(modal.exception.NotFoundError, match="Volume 'absent' not found"):
            modal.Volume.from_name("absent").hydrate()


def test_a_dict_says_who_wrote_first_and_hands_out_what_is_there(control_plane: ControlPlane):
    with control_plane.client():
        entries = records()
        assert entries.put("k", {"n": 1}, skip_if_exists=True)
        assert not entries.put("k", {"n": 2}, skip_if_exists=True)
        assert entries["k"] == {"n": 1} and "absent" not in entries and entries.get("absent") is None
        entries["a"] = 2
        assert sorted(entries.keys()) == ["a", "k"] and dict(entries.items())["a"] == 2
        assert entries.pop("a") == 2 and entries.pop("a", None) is None


def test_ordered_faults_reach_the_client_which_retries_what_may_pass(control_plane: ControlPlane):
    with control_plane.client():
        control_plane.fail_next("DictUpdate", Status.UNAVAILABLE)
        assert records().put("k", 1)
        assert control_plane.traffic.log.count("DictUpdate") == 2
        control_plane.fail_next("DictGet", Status.RESOURCE_EXHAUSTED, "too many")
        with pytest.raises(modal.exception.ResourceExhaustedError, match="too many"):
            records().get("k")
        with pytest.raises(modal.exception.UnimplementedError, match="QueueGetOrCreate"):
            modal.Queue.from_name("q", create_if_missing=True).hydrate()
