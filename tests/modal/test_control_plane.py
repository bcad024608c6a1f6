"""What a deploy leaves on the control plane: options, image layers, uploaded files, and deploys that must fail."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import modal
import pytest
from control_plane import ControlPlane, DeployedApp, VolumeMount
from modal_proto import api_pb2

SAMPLES = Path(__file__).parent / "samples"
HEADER = 'import modal\napp = modal.App("tiny")\nimage = modal.Image.debian_slim(python_version="3.12")\n'


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    with ControlPlane() as plane:
        plane.secrets.create("sample-keys", {"SIGNING_KEY": "s3cret", "OTHER": "x"})
        plane.deploy("-m", "sample_studio.app", cwd=SAMPLES)
        yield plane


@pytest.fixture(scope="module")
def app(plane: ControlPlane) -> DeployedApp:
    return plane.app("sample-studio")


def deploy_tiny(plane: ControlPlane, folder: Path, body: str) -> subprocess.CompletedProcess[str]:
    (folder / "tiny.py").write_text(HEADER + body)
    return plane.cli("deploy", "tiny.py", cwd=folder)


def test_every_option_of_a_class_is_recorded(app: DeployedApp):
    generator = app.function("Generator")
    definition = generator.definition
    assert app.tags == {"project": "sample"} and app.classes == ["Generator"]
    assert generator.gpus == ["L4", "A10"]
    assert (definition.resources.milli_cpu, definition.resources.memory_mb) == (2000, 16384)
    assert definition.checkpointing_enabled and definition.is_checkpointing_function
    assert dict(definition.experimental_options) == {"enable_gpu_snapshot": "True"}
    assert (definition.timeout_secs, definition.startup_timeout_secs) == (600, 120)
    assert generator.autoscaler.HasField("min_containers") and generator.autoscaler.min_containers == 0
    assert (generator.autoscaler.max_containers, generator.autoscaler.scaledown_window) == (1, 60)
    assert generator.volumes == {"/clips": VolumeMount("clips", read_only=False, sub_path="")}
    assert generator.secrets == ["sample-keys"]
    assert sorted(definition.method_definitions) == ["render", "render_slowly"]


def test_every_option_of_functions_is_recorded(app: DeployedApp):
    web = app.function("web").definition
    assert web.webhook_config.type == api_pb2.WEBHOOK_TYPE_ASGI_APP
    assert web.webhook_config.requested_suffix == "sample-web"
    assert (web.max_concurrent_inputs, web.target_concurrent_inputs) == (20, 10)
    assert app.function("web").volumes == {}
    assert app.function("web").web_url.startswith("http://127.0.0.1:")
    assert app.function("read_only").volumes == {
        "/models": VolumeMount("models", read_only=True, sub_path="v1")
    }
    assert app.function("sweep").definition.schedule.cron.cron_string == "0 4 * * *"
    assert app.function("third_time_lucky").definition.retry_policy.retries == 2
    assert app.function("double").env == {"EXTRA": "1", "SAMPLE_MODE": "two words"}
    with pytest.raises(KeyError, match=r"'nope' is not in .*'double'"):
        app.function("nope")


def test_image_layers_can_be_read_back(app: DeployedApp):
    image = app.function("double").image
    assert image.commands[0].startswith("FROM python:3.12-slim") and image.python_version == "3.12"
    assert any("apt-get install -y ffmpeg" in c for c in image.commands)
    assert image.requirements == ["httpx>=0.27", "fastapi", "pydantic>=2", "itsdangerous>=2"]
    assert image.env == {"SAMPLE_MODE": "two words"}


def test_uploaded_files_are_exactly_the_package_and_what_the_image_names(app: DeployedApp, tmp_path: Path):
    files = app.function("web").files
    packages = [SAMPLES / "sample_studio", SAMPLES / "sample_common"]
    expected = {
        f"/root/{p.relative_to(SAMPLES)}": p.read_bytes() for folder in packages for p in folder.glob("*.py")
    }
    assert files == expected | {"/data/list.txt": (SAMPLES / "requirements.txt").read_bytes()}
    root = app.function("web").materialise(tmp_path)
    assert (root / "sample_studio" / "words.py").read_bytes() == files["/root/sample_studio/words.py"]


def test_a_second_deploy_keeps_ids_and_urls(plane: ControlPlane, app: DeployedApp):
    before = (app.record.app_id, app.record.version, app.function("web").web_url)
    plane.deploy("-m", "sample_studio.app", "--tag", "v2", cwd=SAMPLES)
    again = plane.app("sample-studio")
    assert (again.record.app_id, again.record.version, again.function("web").web_url) == (
        before[0],
        before[1] + 1,
        before[2],
    )
    assert again.record.deployment_tag == "v2"


def test_deploy_by_path_ships_one_file(control_plane: ControlPlane, tmp_path: Path):
    (tmp_path / "neighbour.py").write_text("")
    assert deploy_tiny(control_plane, tmp_path, "@app.function(image=image)\ndef f(): ...\n").returncode == 0
    assert sorted(control_plane.app("tiny").function("f").files) == ["/root/tiny.py"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('secrets=[modal.Secret.from_name("absent")]', "Secret 'absent' not found"),
        ('secrets=[modal.Secret.from_name("keys", required_keys=["B"])]', "missing key(s): B"),
        ('volumes={"/v": modal.Volume.from_name("absent")}', "Volume 'absent' not found"),
        (
            'volumes={"/v": modal.Volume.from_name("bad name!", create_if_missing=True)}',
            "Invalid Volume name",
        ),
        ('volumes={"/v": modal.Volume.from_name("old", version=2)}', "exists but has version v1"),
        (
            'volumes={"/a": modal.Volume.from_name("old"), "/b": modal.Volume.from_name("old")}',
            "The same Volume cannot be mounted in multiple locations",
        ),
    ],
)
def test_a_deploy_with_a_fault_fails_and_publishes_nothing(
    control_plane: ControlPlane, tmp_path: Path, line: str, message: str
):
    control_plane.secrets.create("keys", {"A": "1"})
    control_plane.volumes.create("old")
    done = deploy_tiny(control_plane, tmp_path, f"@app.function(image=image, {line})\ndef f(): ...\n")
    assert done.returncode != 0
    output = " ".join((done.stdout + done.stderr).split())
    assert message in output
    with pytest.raises(KeyError, match="no app named 'tiny'"):
        control_plane.app("tiny")


def test_build_steps_after_local_files_fail_the_deploy(control_plane: ControlPlane, tmp_path: Path):
    (tmp_path / "extra.py").write_text("")
    body = 'late = image.add_local_python_source("extra").pip_install("httpx")\n@app.function(image=late)\ndef f(): ...\n'
    done = deploy_tiny(control_plane, tmp_path, body)
    assert done.returncode != 0 and "build step" in done.stdout + done.stderr


def test_a_wrong_token_and_an_unknown_rpc_are_refused(control_plane: ControlPlane):
    done = control_plane.cli("secret", "list", cwd=Path.cwd(), env={"MODAL_TOKEN_ID": "ak-other"})
    assert done.returncode != 0 and "Token missing or unknown" in done.stdout + done.stderr
    with control_plane.client(), pytest.raises(modal.exception.UnimplementedError, match="QueueGetOrCreate"):
        modal.Queue.from_name("q", create_if_missing=True).hydrate()


def test_secrets_made_by_the_command_line_are_found_by_a_deploy(control_plane: ControlPlane, tmp_path: Path):
    made = control_plane.cli("secret", "create", "keys", "A=1", "B=2", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    line = 'secrets=[modal.Secret.from_name("keys", required_keys=["A", "B"])]'
    assert (
        deploy_tiny(control_plane, tmp_path, f"@app.function(image=image, {line})\ndef f(): ...\n").returncode
        == 0
    )
    assert control_plane.app("tiny").function("f").env == {"A": "1", "B": "2"}
