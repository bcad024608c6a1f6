"""The projection must agree with what was measured where it was measured."""

import dataclasses
import json
from pathlib import Path

import pytest

from anime_studio.core.clip import plan
from anime_studio.core.decoders import Decoder
from anime_studio.core.errors import BudgetExceededError, ConfigurationError
from anime_studio.core.pricing import Machine
from anime_studio.core.projection import project, refuse_over_budget
from anime_studio.core.recipes import DEMO, FASTWAN_3STEP, WAN_50STEP, Recipe
from common.schemas import ClipSpec, GenerateRequest

REPOSITORY = Path(__file__).parents[3]
H200 = Machine("H200", cpu_cores=2, memory_gib=12)
L4 = Machine("L4", cpu_cores=2, memory_gib=12)


def test_the_projection_for_an_h200_is_what_was_measured_there():
    measured = json.loads((REPOSITORY / "benchmarks/results/engine_h200.json").read_text())["stages"]

    projected = project(FASTWAN_3STEP, H200)
    assert projected.text_s == pytest.approx(measured["text_s"]["ours"], rel=0.03)
    assert projected.denoise_s == pytest.approx(3 * measured["denoise_forward_s"]["ours"], rel=0.03)
    assert projected.decode_s == pytest.approx(measured["decode_s"]["ours"], rel=0.03)


@pytest.mark.parametrize("decoder", [Decoder.LIGHT, Decoder.TINY])
def test_the_projection_of_a_smaller_decoder_is_what_was_measured_on_an_h100(decoder: Decoder):
    rows = json.loads((REPOSITORY / "benchmarks/results/decoders_h100.json").read_text())["rows"]
    measured = {row["decoder"]: row.get("card_s") for row in rows}

    projected = project(FASTWAN_3STEP, Machine("H100", cpu_cores=2, memory_gib=12), decoder=decoder)
    assert projected.decode_s == pytest.approx(measured[decoder], rel=0.05)


def test_a_larger_clip_takes_what_was_measured_on_an_h100_and_costs_more_on_an_l4():
    rows = json.loads((REPOSITORY / "benchmarks/results/upscaling_h100.json").read_text())["upscaling"]
    measured_s = next(row["clip_s"] for row in rows if row["path"] == "compiled" and row["batch"] == 9)
    recipe = FASTWAN_3STEP.with_upscaler()
    h100 = Machine("H100", cpu_cores=2, memory_gib=12)
    large, small = spec_of(recipe, resolution="1080p"), spec_of(recipe)

    assert project(recipe, h100, spec=small).upscale_s == 0
    assert project(recipe, h100, spec=large).upscale_s == pytest.approx(measured_s, rel=0.03)
    on_l4 = project(recipe, L4, spec=large)
    assert 1.3 < on_l4.upscale_s < 1.8
    assert 0.0003 < on_l4.usd - project(recipe, L4, spec=small).usd < 0.0005


def test_encoding_takes_what_was_measured_on_two_cores_at_both_sizes():
    """The larger size is projected by the pixels, from the smaller one."""
    recipe = FASTWAN_3STEP.with_upscaler()
    for resolution, file in (("480p", "encoding_16cores.json"), ("1080p", "encoding_1080p_16cores.json")):
        projected = project(recipe, H200, spec=spec_of(recipe, resolution=resolution))
        assert projected.encode_s == pytest.approx(encoded(file), rel=0.05)


def encoded(file: str) -> float:
    """Return the measured seconds of the setting in use, on two cores."""
    wanted = {"preset": "superfast", "threads": 8, "params": "mbtree=0", "slices": False}
    for row in json.loads((REPOSITORY / "benchmarks/results" / file).read_text())["rows"]:
        if row["cores"] == 2 and wanted.items() <= row["setting"].items():
            return float(row["encode_s"])
    raise LookupError(wanted)


def test_encoding_beside_a_short_decode_is_what_a_clip_of_1080p_waits_for_and_a_budget_counts_it():
    recipe, h100 = FASTWAN_3STEP.with_upscaler(), Machine("H100", cpu_cores=2, memory_gib=12)
    spec = spec_of(recipe, resolution="1080p").model_copy(update={"decoder": Decoder.TINY})
    quick = project(recipe, h100, decoder=Decoder.TINY, spec=spec)
    assert quick.encode_s > quick.decode_s + quick.upscale_s
    assert quick.total_s == pytest.approx(quick.text_s + quick.denoise_s + quick.encode_s)
    slow = project(recipe, L4, spec=spec_of(recipe, resolution="1080p"))
    assert slow.total_s == pytest.approx(slow.text_s + slow.denoise_s + slow.decode_s + slow.upscale_s)

    without_encoding = quick.text_s + quick.denoise_s + quick.decode_s + quick.upscale_s
    with pytest.raises(BudgetExceededError):
        refuse_over_budget(spec, recipe, h100, 1.1 * without_encoding * h100.usd_per_s())


def test_attention_stays_in_16_bits_where_the_recipe_was_not_trained_otherwise():
    untrained = dataclasses.replace(FASTWAN_3STEP, trained_with_8bit_attention=False)

    assert project(untrained, H200).denoise_s == pytest.approx(3 * 0.466, rel=0.03)  # the same result file


@pytest.mark.parametrize("stage", ["denoise_s", "decode_s"])
def test_a_slower_card_takes_longer_by_its_tensor_peak_and_its_bandwidth(stage: str):
    ratio = getattr(project(FASTWAN_3STEP, L4), stage) / getattr(project(FASTWAN_3STEP, H200), stage)

    assert 989 / 121 < ratio < 4800 / 300


def test_attention_grows_with_the_square_of_a_clips_length_and_the_decode_with_its_length():
    longest, shortest = spec_of(WAN_50STEP), spec_of(WAN_50STEP, duration=1)
    share = shortest.num_frames / longest.num_frames

    whole, short = (project(WAN_50STEP, H200, spec=spec) for spec in (longest, shortest))
    assert short.decode_s == pytest.approx(share * whole.decode_s)
    assert short.denoise_s < 0.6 * share * whole.denoise_s


def test_an_l4_is_projected_under_half_a_cent():
    assert project(FASTWAN_3STEP, L4).usd < 0.005


def test_fifty_guided_steps_break_the_two_cent_limit_and_three_do_not():
    assert project(WAN_50STEP, L4).usd > 0.02
    assert project(FASTWAN_3STEP, L4).usd < 0.02


def test_guidance_doubles_the_forwards():
    in_16_bits = dataclasses.replace(FASTWAN_3STEP, trained_with_8bit_attention=False)

    assert project(WAN_50STEP, L4).denoise_s == pytest.approx(project(in_16_bits, L4).denoise_s / 3 * 100)


def test_idle_and_cold_start_stay_out_of_the_clip():
    lone = project(FASTWAN_3STEP, L4, scaledown_window_s=60, cold_start_s=5)

    assert lone.usd == project(FASTWAN_3STEP, L4).usd
    assert lone.idle_tail_usd == pytest.approx(60 * L4.usd_per_s())
    assert lone.cold_start_usd == pytest.approx(5 * L4.usd_per_s())


def test_an_unknown_card_is_refused_with_those_known():
    with pytest.raises(ConfigurationError, match="L40S"):
        project(FASTWAN_3STEP, Machine("T4", 2, 16))


def spec_of(recipe: Recipe, **asked: float | str) -> ClipSpec:
    return plan(GenerateRequest(prompt="a cat", **asked), recipe, model_revision="main", seed=1)


def test_a_clip_over_budget_is_refused_with_both_sums():
    with pytest.raises(BudgetExceededError, match=r"\$0\.0200"):
        refuse_over_budget(spec_of(WAN_50STEP), WAN_50STEP, L4, 0.02)


def test_a_clip_within_budget_passes():
    refuse_over_budget(spec_of(FASTWAN_3STEP), FASTWAN_3STEP, L4, 0.02)


@pytest.mark.parametrize("gpu", ["H100!", "H100:1"])
def test_modals_ways_of_writing_a_gpu_are_projected_as_the_gpu(gpu: str):
    assert project(FASTWAN_3STEP, Machine(gpu)).usd == project(FASTWAN_3STEP, Machine("H100")).usd


@pytest.mark.parametrize(("recipe", "machine"), [(DEMO, L4), (WAN_50STEP, Machine())])
def test_what_nobody_bills_for_is_never_refused(recipe, machine):
    refuse_over_budget(spec_of(recipe), recipe, machine, 1e-9)
