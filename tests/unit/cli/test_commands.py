"""The command line in this process, with Typer's own runner."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from anime_studio.cli import app
from anime_studio.cli.doctor import _lacking
from anime_studio.cli.output import EXIT_CODES, ExitCode, exit_code_of
from anime_studio.cli.progress import describe
from anime_studio.client import InvalidRequestError, JobTimeoutError, UnreachableError
from anime_studio.client.errors import own_problem
from anime_studio.core.errors import ConfigurationError
from anime_studio.core.recipes import RECIPES
from common.schemas import Job
from support.wire import JOB_ID, job_json

runner = CliRunner()
NOWHERE = "http://127.0.0.1:9"


def test_help_names_every_exit_code() -> None:
    told = " ".join(runner.invoke(app, ["--help"]).output.split())
    assert {int(number) for number in re.findall(r"(\d+) [a-z]", EXIT_CODES)} == {
        int(code) for code in ExitCode
    }
    assert "130 interrupted" in told


def test_recipes_as_json_have_their_sources() -> None:
    told = json.loads(runner.invoke(app, ["recipes", "--json"]).stdout)
    assert [recipe["name"] for recipe in told] == list(RECIPES)
    assert all(recipe["source"] for recipe in told)


def test_recipes_as_a_table() -> None:
    told = runner.invoke(app, ["recipes"])
    assert told.exit_code == ExitCode.OK
    assert all(name in told.output for name in RECIPES)


def test_doctor_names_what_is_missing_and_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANIME_STUDIO_MODELS_DIR", str(tmp_path))
    monkeypatch.setenv("ANIME_STUDIO_DATA_DIR", str(tmp_path))
    told = runner.invoke(app, ["doctor", "--json", "--recipe", "fastwan-3step", "--url", NOWHERE])
    assert told.exit_code == ExitCode.FAILED
    findings = {finding["name"]: finding for finding in json.loads(told.stdout)}
    assert findings["weights"]["state"] == "missing"
    assert "fastwan-3step" in findings["weights"]["remedy"]
    assert findings["server"]["remedy"] == "anime-studio serve"
    assert findings["python"]["state"] == "ok"


def test_doctor_sees_a_package_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["httpx>=1", "no-such-package-here>=1; extra == 'engine'", "pydantic; extra == 'engine'"]
    monkeypatch.setattr("anime_studio.cli.doctor.requires", lambda _: wanted)
    assert _lacking("engine") == ["no-such-package-here"]


def test_doctor_loads_nothing_heavy() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from anime_studio.cli import app; "
        f"CliRunner().invoke(app, ['doctor', '--url', '{NOWHERE}']); "
        "print([m for m in ('torch', 'fastapi', 'modal', 'diffusers', 'transformers') if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_without_a_server_generate_says_how_to_start_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anime_studio.cli.output.DEFAULT_URL", NOWHERE)
    told = runner.invoke(app, ["generate", "a cat", "--url", NOWHERE])
    assert told.exit_code == ExitCode.UNREACHABLE
    assert "anime-studio serve" in told.stderr


def test_a_wrong_address_is_wrong_usage() -> None:
    told = runner.invoke(app, ["status", "--url", "studio.example"])
    assert told.exit_code == ExitCode.USAGE


def test_a_wrong_setting_is_named_with_its_variable() -> None:
    told = runner.invoke(app, ["serve", "--port", "70000"])
    assert told.exit_code == ExitCode.USAGE
    assert "ANIME_STUDIO_PORT" in told.stderr


def test_wrong_usage_with_json_is_a_problem() -> None:
    command = [sys.executable, "-m", "anime_studio.cli", "generate", "--json", "--nope"]
    told = subprocess.run(command, capture_output=True, text=True)
    assert told.returncode == ExitCode.USAGE
    assert json.loads(told.stderr)["code"] == "usage"
    assert told.stdout == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (JobTimeoutError(JOB_ID, 1), ExitCode.TIMED_OUT),
        (UnreachableError(NOWHERE, OSError()), ExitCode.UNREACHABLE),
        (InvalidRequestError(own_problem("invalid_request", "x")), ExitCode.REFUSED),
        (ConfigurationError("x"), ExitCode.USAGE),
    ],
)
def test_errors_have_their_number(error: Exception, code: ExitCode) -> None:
    assert exit_code_of(error) is code


def test_progress_speaks() -> None:
    progress = {"step": 2, "total_steps": 3, "fraction": 0.61, "eta_s": 4.2}
    job = Job.model_validate_json(job_json(state="running", stage="denoise", progress=progress))
    assert describe(job) == "denoise 2/3, 61%, about 4 s left"
    queued = Job.model_validate_json(job_json(queue_position=2))
    assert describe(queued) == "queued, 2 ahead"
