"""Settings survive the trip into a container; what images install resolves for them."""

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
from anime_studio.on_modal.images import PYTHON_VERSION, TORCH, requirements
from anime_studio.on_modal.settings import MODELS_MOUNT, SCRATCH, ModalSettings
from anime_studio.on_modal.signing_keys import read_operator_key
from support.modal_plane.packages import closure

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
    assert ModalSettings(text="gpu", memory_gib=12).policy().text_usd_per_s == 0


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
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    constraints = {
        r.name.lower().replace("_", "-"): r
        for r in map(Requirement, filter(lambda x: x and x[0] != "#", lines))
    }
    found = closure(requirements(extra))
    assert found.missing == []
    for distribution in found.distributions.values():
        for text in [*(distribution.requires or []), *requirements(extra)]:
            needed = Requirement(text)
            pinned = constraints.get(needed.name.lower().replace("_", "-"))
            if pinned is None or (needed.marker and not needed.marker.evaluate({"extra": ""})):
                continue
            (exact,) = pinned.specifier
            assert Version(exact.version) in needed.specifier, (
                f"{distribution.name} needs {needed}, pinned {pinned}"
            )


def test_torch_in_the_image_is_the_torch_these_tests_run_on():
    assert Version(version("torch")).public == Requirement(TORCH).specifier.__str__().removeprefix("==")


@pytest.mark.slow
@pytest.mark.timeout(300)  # pip reads the index as fast as the network allows
@pytest.mark.parametrize(("extra", "pins"), [("engine", [TORCH]), ("server", [])])
def test_both_lists_resolve_for_the_images_python_and_linux(extra: str, pins: list[str], tmp_path: Path):
    """Asks the package index; skipped where none answers."""
    if not _index_answers():
        pytest.skip(
            "no package index answers here; the constraints are checked against installed metadata instead"
        )
    glibc = [
        "manylinux1",
        "manylinux2010",
        "manylinux2014",
        *(f"manylinux_2_{minor}" for minor in range(5, 37)),
    ]
    command = [
        sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed", "--only-binary=:all:",
        "--target", str(tmp_path), "--disable-pip-version-check", "--implementation", "cp",
        "--python-version", PYTHON_VERSION, *(f"--platform={name}_x86_64" for name in glibc),
        "-c", str(REPOSITORY / "constraints.txt"), *requirements(extra), *pins,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and not _index_answers():
        pytest.skip("the package index went away meanwhile")
    assert done.returncode == 0, done.stderr


def _index_answers() -> bool:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--quiet",
        "--retries",
        "0",
        "--timeout",
        "3",
    ]
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [*command, "--dest", folder, "itsdangerous==2.2.0"], capture_output=True, timeout=60
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
