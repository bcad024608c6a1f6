"""The command line in this process, with Typer's own runner."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from anime_studio.cli import app
from anime_studio.cli.doctor import missing_packages
from anime_studio.cli.output import EXIT_CODES, ExitCode, exit_code_of, hint_for
from anime_studio.cli.progress import describe
from anime_studio.client import DEFAULT_URL, InvalidRequestError, JobTimeoutError, UnreachableError
from anime_studio.client.errors import own_problem
from anime_studio.core.errors import ConfigurationError
from anime_studio.core.recipes import RECIPES
from common.schemas import Job
from support.wire import JOB_ID, job_json

runner = CliRunner()
NOWHERE = "http://127.0.0.1:9"


def test_help_names_every_exit_code() -> None:
    named = {int(number) for number in re.findall(r"(\d+) [a-z]", EXIT_CODES)}
    assert named == {int(code) for code in ExitCode}
    assert "130 interrupted" in " ".join(runner.invoke(app, ["--help"]).output.split())


def test_recipes_as_json_have_their_sources() -> None:
    recipes = json.loads(runner.invoke(app, ["recipes", "--json"]).stdout)
    assert [recipe["name"] for recipe in recipes] == list(RECIPES)
    assert all(recipe["source"] for recipe in recipes)


def test_recipes_as_a_table() -> None:
    result = runner.invoke(app, ["recipes"])
    assert result.exit_code == ExitCode.OK
    assert all(name in result.output for name in RECIPES)


def test_doctor_names_what_is_missing_and_the_remedy(tmp_path: Path) -> None:
    folders = {"ANIME_STUDIO_MODELS_DIR": str(tmp_path), "ANIME_STUDIO_DATA_DIR": str(tmp_path)}
    command = ["doctor", "--json", "--recipe", "fastwan-3step", "--url", NOWHERE]
    result = runner.invoke(app, command, env=folders)
    assert result.exit_code == ExitCode.FAILED
    findings = {finding["name"]: finding for finding in json.loads(result.stdout)}
    assert findings["weights"]["state"] == "missing"
    assert "fastwan-3step" in findings["weights"]["remedy"]
    assert findings["server"]["remedy"] == "anime-studio serve"
    assert findings["python"]["state"] == "ok"


def test_doctor_sees_a_package_that_is_not_there() -> None:
    requirements = [
        "httpx>=1", "absent-from-base>=1", "absent-from-engine>=1; extra == 'engine'", "pydantic; extra == 'engine'",
    ]  # fmt: skip
    assert missing_packages("engine", requirements) == ["absent-from-engine"]


def test_doctor_loads_nothing_heavy() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from anime_studio.cli import app; "
        f"CliRunner().invoke(app, ['doctor', '--url', '{NOWHERE}']); "
        "print([m for m in ('torch', 'fastapi', 'modal', 'diffusers', 'transformers') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_without_a_server_the_hint_is_how_to_start_one() -> None:
    assert "anime-studio serve" in (hint_for(UnreachableError(DEFAULT_URL, OSError())) or "")


def test_an_error_is_printed_with_its_hint() -> None:
    result = runner.invoke(app, ["status", "--url", NOWHERE])
    assert result.exit_code == ExitCode.UNREACHABLE
    assert "[unreachable]" in result.stderr
    assert "next: check the address" in result.stderr


def test_a_wrong_address_is_wrong_usage() -> None:
    result = runner.invoke(app, ["status", "--url", "studio.example"])
    assert result.exit_code == ExitCode.USAGE


def test_a_wrong_setting_is_named_with_its_variable() -> None:
    result = runner.invoke(app, ["serve", "--port", "70000"])
    assert result.exit_code == ExitCode.USAGE
    assert "ANIME_STUDIO_PORT" in result.stderr


def test_wrong_usage_with_json_is_a_problem() -> None:
    command = [sys.executable, "-m", "anime_studio.cli", "generate", "--json", "--nope"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == ExitCode.USAGE
    assert json.loads(result.stderr)["code"] == "usage"
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (JobTimeoutError(JOB_ID, 1), ExitCode.TIMED_OUT),
        (UnreachableError(NOWHERE, OSError()), ExitCode.UNREACHABLE),
        (InvalidRequestError(own_problem("invalid_request", "x")), ExitCode.REFUSED),
        (ConfigurationError("x"), ExitCode.USAGE),
    ],
)
def test_errors_have_their_exit_code(error: Exception, code: ExitCode) -> None:
    assert exit_code_of(error) is code


def test_progress_in_words() -> None:
    progress = {"step": 2, "total_steps": 3, "fraction": 0.61, "eta_s": 4.2}
    job = Job.model_validate_json(job_json(state="running", stage="denoise", progress=progress))
    assert describe(job) == "Drawing, step 3 of 3, 61%, about 4 s left"
    queued = Job.model_validate_json(job_json(queue_position=2))
    assert describe(queued) == "Waiting, 2 ahead"
