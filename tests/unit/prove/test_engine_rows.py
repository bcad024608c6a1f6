"""The rows that need no Modal, with random weights and one fault each."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from anime_studio.core.recipes import SparseAttention
from anime_studio.engine.acceleration import Acceleration, Attention
from anime_studio.engine.startup import start_engine
from anime_studio.prove.container import setup_command
from anime_studio.prove.engine_rows import EngineRows
from anime_studio.prove.page import render_page
from anime_studio.prove.pictures import psnr_db, ssim
from anime_studio.prove.rows import Found
from anime_studio.settings import Settings
from common.prove import ProofReport, ProofRow, Verdict
from support.engine import checkpoint_in, flip
from support.sparse_checkpoint import add_gates

SPARSE = SparseAttention(tile=(4, 4, 4), sparsity=0.8)


@pytest.fixture
def settings(tmp_path, tiny_checkpoint):
    checkpoint_in(tmp_path / "models", tiny_checkpoint)
    return Settings(recipe="tiny-random", device="cpu", models_dir=tmp_path / "models")


def start_with_a_wrong_fast_path(*arguments, accelerate, **options):
    engine = start_engine(*arguments, accelerate=accelerate, **options)
    if accelerate:
        decode = engine.decoder.decode
        engine.decoder.decode = lambda latents: decode(-latents)
    return engine


def test_two_starts_that_draw_the_same_pixels_hold(settings, tmp_path):
    rows = EngineRows(settings, tmp_path)
    assert rows.check("fast") == Found(
        Verdict.HOLDS, "as started against plain: the same pixels", picture="fast.png"
    )
    assert (tmp_path / "fast.png").read_bytes().startswith(b"\x89PNG")


def test_a_fast_path_that_draws_other_pixels_falls_short(settings, tmp_path):
    found = EngineRows(settings, tmp_path, start=start_with_a_wrong_fast_path).check("fast")
    assert found.verdict is Verdict.FALLS_SHORT
    assert "PSNR" in found.detail


def test_8_bit_attention_is_compared_with_bf16_where_a_start_takes_it(settings, tmp_path):
    asked = []

    def start(recipe, *arguments, **options):
        asked.append((recipe.trained_with_8bit_attention, options["accelerate"]))
        engine = start_engine(recipe, *arguments, **options)
        if recipe.trained_with_8bit_attention and options["accelerate"]:
            engine.acceleration = Acceleration(attention=Attention.INT8)
        return engine

    rows = EngineRows(settings, tmp_path, start=start)
    rows.recipe = replace(rows.recipe, trained_with_8bit_attention=True)
    found = rows.check("fast")
    assert "as started against with bf16 attention: the same pixels" in found.detail
    assert asked == [(True, True), (False, True), (True, False)]


def test_a_sparse_recipe_names_its_attention_and_draws_no_clip_twice(settings, tmp_path):
    add_gates(tmp_path / "models/tiny-random/random-0")

    def start(*arguments, **options):
        engine = start_engine(*arguments, **options)
        if options["accelerate"]:
            engine.acceleration = Acceleration(attention=Attention.INT8)
        return engine

    rows = EngineRows(settings, tmp_path, start=start)
    rows.recipe = replace(rows.recipe, sparse=SPARSE)
    assert "taken: attention=int8, sparse_attention=0.8" in rows.check("device").detail
    assert rows.check("fast").detail == "as started against plain: the same pixels"


def test_an_altered_weight_falls_short(settings, tmp_path, tiny_checkpoint):
    flip(next((tmp_path / "models").rglob("transformer/*.safetensors")))
    found = EngineRows(settings, tmp_path).check("weights")
    assert found.verdict is Verdict.FALLS_SHORT
    assert "transformer" in found.detail


def test_a_decoder_that_is_not_here_is_not_checked(settings, tmp_path):
    found = EngineRows(settings, tmp_path).check("decoders")
    assert found.verdict is Verdict.NOT_CHECKED
    assert "weights fetch" in found.detail
    on_modal = EngineRows(settings, tmp_path, setup=setup_command).check("decoders")
    assert "modal_app::setup --recipe tiny-random --decoder light" in on_modal.detail


@pytest.mark.parametrize(
    ("pinned", "verdict"), [("numpy==0.1\n", Verdict.FALLS_SHORT), (None, Verdict.NOT_CHECKED)]
)
def test_another_version_than_pinned_is_told(settings, tmp_path, pinned, verdict):
    constraints = tmp_path / "constraints.txt"
    if pinned:
        constraints.write_text(pinned)
    assert EngineRows(settings, tmp_path, constraints=constraints).check("versions").verdict is verdict


def test_nearness_is_exact_for_known_pixels():
    grey = np.full((2, 16, 16, 3), 100, np.uint8)
    assert psnr_db(grey, grey) == float("inf")
    assert ssim(grey, grey) == pytest.approx(1)
    assert psnr_db(grey, grey + np.uint8(51)) == pytest.approx(20 * np.log10(5))


def test_the_page_escapes_what_a_row_says(tmp_path):
    row = ProofRow(
        name="device", verdict=Verdict.HOLDS, detail="<script>alert(1)</script>", checked_at=datetime.now(UTC)
    )
    page = render_page(ProofReport(version="1", recipe="demo", device="cpu", rows=(row,)), tmp_path)
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
