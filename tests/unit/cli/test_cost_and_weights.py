"""`cost` and `weights`, as a person and as a script would call them."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from anime_studio.cli import app
from anime_studio.core.decoders import Decoder
from anime_studio.core.projection import CARDS
from anime_studio.core.recipes import DEMO
from support.engine import checkpoint_in
from support.smaller_decoders import tiny_weights, write_decoder


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("ANIME_STUDIO_MODELS_DIR", str(tmp_path))
    return lambda *words: CliRunner().invoke(app, words)


def test_cost_says_that_it_projects_and_which_card_is_cheapest(run):
    shown = run("cost").output

    assert "Projected, not measured" in " ".join(shown.split())
    assert shown.count(" *") >= 2


@pytest.mark.parametrize("recipe", ["fastwan-3step", "fastwan-vsa-3step", "wan-50step"])
def test_the_readme_says_what_cost_projects(run, recipe):
    readme = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    (line,) = re.findall(rf"^\| `{recipe}` \|.*$", readme, re.MULTILINE)
    rows = json.loads(run("cost", "--json").stdout)["projections"]
    of_l4 = {row["decoder"]: row for row in rows if (row["recipe"], row["card"]) == (recipe, "L4")}
    told = (f"{of_l4[name]['total_s']:.1f} s ${of_l4[name]['usd']:.4f}" for name in ("full", "light", "tiny"))
    assert ", ".join(told) in line


def test_the_page_of_performance_says_what_cost_projects(run):
    page = (Path(__file__).parents[3] / "docs" / "performance.md").read_text(encoding="utf-8")
    tables = page[page.index("## Dollars") : page.index("## On a laptop")]
    document = json.loads(run("cost", "--json").stdout)
    small, large = (
        {
            (row["card"], row["decoder"]): row
            for row in document[key]
            if row["recipe"] == "fastwan-3step"  # 1080p takes as much more with any recipe
        }
        for key in ("projections", "projections_1080p")
    )
    decoders = ("full", "light", "tiny")
    clips, more = (
        re.findall(pattern, tables, re.MULTILINE)
        for pattern in (r"^\| (\S+) \| [^$\n]* \| 0\.[^$\n]*$", r"^\| (\S+) \| .*\$.*$")
    )

    assert len(clips) == 6 and len(more) == 4
    for card in clips:
        cells = (f"{small[card, of]['total_s']:.1f} s | {small[card, of]['usd']:.4f}" for of in decoders)
        assert f"| {card} | {' | '.join(cells)} |" in tables
    for card in more:
        both = [(small[card, of], large[card, of]) for of in decoders]
        cells = (f"{b['total_s'] - a['total_s']:.1f} s, ${b['usd'] - a['usd']:.4f}" for a, b in both)
        assert f"| {card} | {both[0][1]['upscale_s']:.2f} s | {' | '.join(cells)} |" in tables


def test_cost_has_all_its_dollars_in_a_line_of_80_characters(run):
    shown = run("cost").stdout
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert re.search(r"^fastwan-3step, light decoder$", shown, re.MULTILINE)
    assert re.search(
        r"^L4 +\d+\.\d s +\d\.\d\d s +\d+\.\d s +0\.00\d\d( \*)? +0\.\d{4} +0\.\d{4} +\d+$",
        shown,
        re.MULTILINE,
    )


def test_cost_as_json_has_a_row_for_each_recipe_decoder_and_card(run):
    document = json.loads(run("cost", "--json").stdout)

    rows = {(row["recipe"], row["decoder"], row["card"]): row for row in document["projections"]}
    assert {("fastwan-3step", "tiny", "L4"), ("fastwan-vsa-3step", "tiny", "L4")} <= rows.keys()
    assert len(rows) == len(document["projections"]) == 3 * 3 * len(CARDS)
    full, light, tiny = (rows["fastwan-3step", decoder, "L4"] for decoder in ("full", "light", "tiny"))
    assert full["usd"] > light["usd"] > tiny["usd"]
    assert tiny["clips_per_hour"] == pytest.approx(3600 / tiny["total_s"])


def test_cost_says_what_1080p_takes_and_costs_more_and_that_this_is_projected(run):
    shown = run("cost").stdout
    heading = "1080p, more than 480p, for any recipe by decoder"
    table = shown[shown.index(heading) :]
    row = re.search(
        r"^L4 +(\d\.\d\d) s +(\d\.\d) s +\+(\d\.\d) s \$(0\.\d{4}) +\+.* s .* +\+.* s .*$",
        table,
        re.MULTILINE,
    )
    assert row
    assert "Projected as well" in table

    document = json.loads(run("cost", "--json").stdout)
    small, large = document["projections"], document["projections_1080p"]
    assert len(small) == len(large)
    for less, more in zip(small, large, strict=True):
        assert [less[key] for key in ("recipe", "decoder", "card")] == [
            more[key] for key in ("recipe", "decoder", "card")
        ]
        assert less["upscale_s"] == 0 < more["upscale_s"]
        extra_usd = more["usd"] - less["usd"]
        if (more["decoder"], more["card"]) == ("full", "L4"):  # of any recipe
            assert (f"{more['upscale_s']:.2f}", f"{more['encode_s']:.1f}") == (row[1], row[2])
            assert (f"{more['total_s'] - less['total_s']:.1f}", f"{extra_usd:.4f}") == (row[3], row[4])


def test_cost_of_a_deployment_with_an_upscaler_has_a_clip_of_1080p(run, monkeypatch):
    name = "a clip of 1080p while others wait"
    assert name not in json.loads(run("cost", "--json").stdout)["deployment"]
    monkeypatch.setenv("ANIME_STUDIO_UPSCALER", "true")
    sums = json.loads(run("cost", "--json").stdout)["deployment"]
    assert sums[name] > sums["a clip while others wait"]


def test_cost_adds_up_what_this_shells_settings_would_deploy(run, monkeypatch):
    monkeypatch.setenv("ANIME_STUDIO_SCALEDOWN_WINDOW_S", "40")
    usual = json.loads(run("cost", "--json").stdout)["deployment"]
    monkeypatch.setenv("ANIME_STUDIO_MIN_CONTAINERS", "1")
    kept = json.loads(run("cost", "--json", "--hours", "2", "--shows", "5").stdout)["deployment"]

    assert list(usual) == [
        "a clip while others wait",
        "a clip alone, from sleep to sleep",
        "the same after a start without a snapshot",
        "a show of 3 h with 30 clips an hour",
        "a month of 4 such shows",
    ]
    burst, lone, plain, show, month = usual.values()
    assert burst < lone < plain < show < month == pytest.approx(4 * show)
    assert kept["a month of 5 such shows"] == pytest.approx(5 * kept["a show of 2 h with 30 clips an hour"])
    assert "idle for 40 s, 1 kept" in " ".join(run("cost").output.split())


def test_cost_refuses_settings_that_a_deploy_refuses(run, monkeypatch):
    monkeypatch.setenv("ANIME_STUDIO_RECIPE", "nope")

    assert run("cost").exit_code == 2


def test_verify_names_the_folder(run):
    document = json.loads(run("weights", "verify", "--recipe", "demo", "--json").stdout)

    assert document["revision"] == DEMO.revision


def test_missing_weights_name_the_next_command(run):
    result = run("weights", "verify", "--recipe", "fastwan-3step")

    assert result.exit_code == 1
    assert "anime-studio weights fetch --recipe fastwan-3step" in " ".join(result.stderr.split())


def test_a_missing_decoder_names_the_next_command(run, monkeypatch, tiny_checkpoint, tmp_path):
    monkeypatch.setenv("ANIME_STUDIO_DECODER", "light")
    checkpoint_in(tmp_path, tiny_checkpoint)

    result = run("weights", "verify", "--recipe", "tiny-random")

    assert result.exit_code == 1
    command = "anime-studio weights fetch --recipe tiny-random --decoder light"
    assert command in " ".join(result.stderr.split())


def test_a_decoder_of_other_latents_is_wrong_usage(run):
    result = run("weights", "fetch", "--recipe", "demo", "--decoder", "tiny")

    assert result.exit_code == 2
    assert "set ANIME_STUDIO_DECODER to one of: full" in " ".join(result.stderr.split())


def test_verify_names_the_decoder_that_it_hashed(run, monkeypatch, tiny_checkpoint, tmp_path):
    monkeypatch.setenv("ANIME_STUDIO_DECODER", "tiny")
    checkpoint_in(tmp_path, tiny_checkpoint)
    file = write_decoder(tmp_path, Decoder.TINY, tiny_weights())

    document = json.loads(run("weights", "verify", "--recipe", "tiny-random", "--json").stdout)

    assert (document["decoder"], document["decoder_file"]) == ("tiny", str(file))


def test_an_unknown_recipe_is_wrong_usage(run):
    assert run("weights", "fetch", "--recipe", "nope").exit_code == 2
