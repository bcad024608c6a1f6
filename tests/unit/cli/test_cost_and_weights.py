"""`cost` and `weights`, as a person and as a script would call them."""

import json

import pytest
from typer.testing import CliRunner

from anime_studio.cli import app
from anime_studio.core.recipes import DEMO


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("ANIME_STUDIO_MODELS_DIR", str(tmp_path))
    return lambda *words: CliRunner().invoke(app, words)


def test_cost_says_that_it_projects_and_which_card_is_cheapest(run):
    shown = run("cost").output

    assert "Projected, not measured" in " ".join(shown.split())
    assert shown.count(" *") >= 2


def test_cost_as_json_has_a_row_for_each_card_and_recipe(run):
    document = json.loads(run("cost", "--json").stdout)

    rows = {(row["recipe"], row["card"]) for row in document["projections"]}
    assert {("fastwan-3step", "L4"), ("wan-50step", "H200")} <= rows
    assert len(rows) == len(document["projections"]) == 12


def test_verify_names_the_folder(run):
    document = json.loads(run("weights", "verify", "--recipe", "demo", "--json").stdout)

    assert document["revision"] == DEMO.revision


def test_missing_weights_name_the_next_command(run):
    result = run("weights", "verify", "--recipe", "fastwan-3step")

    assert result.exit_code == 1
    assert "anime-studio weights fetch --recipe fastwan-3step" in " ".join(result.stderr.split())


def test_an_unknown_recipe_is_wrong_usage(run):
    assert run("weights", "fetch", "--recipe", "nope").exit_code == 2
