"""The projection must agree with what was measured where it was measured."""

import dataclasses

import pytest

from anime_studio.core.clip import plan
from anime_studio.core.errors import BudgetExceededError, ConfigurationError
from anime_studio.core.pricing import Machine
from anime_studio.core.projection import forward_flops, project, refuse_over_budget
from anime_studio.core.recipes import DEMO, FASTWAN_3STEP, WAN_50STEP, Recipe
from common.schemas import ClipSpec, GenerateRequest

H200 = Machine("H200", cpu_cores=2, memory_gib=12)
L4 = Machine("L4", cpu_cores=2, memory_gib=12)


def test_forward_flops_match_the_published_count():
    attention, linears = forward_flops(32_760)

    assert attention == pytest.approx(201e12, rel=0.01)
    assert linears == pytest.approx(82e12, rel=0.01)


def test_projection_reproduces_the_h200_measurement_it_was_fitted_to():
    projected = project(FASTWAN_3STEP, H200)

    assert projected.text_s == pytest.approx(0.091, rel=0.1)
    assert projected.denoise_s == pytest.approx(3 * 0.367, rel=0.03)
    assert projected.decode_s == pytest.approx(0.597, rel=0.03)


def test_attention_stays_in_16_bits_where_the_recipe_was_not_trained_otherwise():
    untrained = dataclasses.replace(FASTWAN_3STEP, trained_with_8bit_attention=False)

    assert project(untrained, H200).denoise_s == pytest.approx(3 * 0.466, rel=0.05)


def test_8_bit_attention_off_hopper_is_half_in_16_bits():
    untrained = dataclasses.replace(FASTWAN_3STEP, trained_with_8bit_attention=False)
    attention_flops, _ = forward_flops(32_760)
    in_16_bits_s = 3 * attention_flops / (121e12 * 0.57)

    gained_s = project(untrained, L4).denoise_s - project(FASTWAN_3STEP, L4).denoise_s
    assert gained_s == pytest.approx(in_16_bits_s / 4)


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


def spec_of(recipe: Recipe) -> ClipSpec:
    return plan(GenerateRequest(prompt="a cat"), recipe, model_revision="main", seed=1)


def test_a_clip_over_budget_is_refused_with_both_sums():
    with pytest.raises(BudgetExceededError, match=r"\$0\.0200"):
        refuse_over_budget(spec_of(WAN_50STEP), WAN_50STEP, L4, 0.02)


def test_a_clip_within_budget_passes():
    refuse_over_budget(spec_of(FASTWAN_3STEP), FASTWAN_3STEP, L4, 0.02)


@pytest.mark.parametrize(("recipe", "machine"), [(DEMO, L4), (WAN_50STEP, Machine())])
def test_what_nobody_bills_for_is_never_refused(recipe, machine):
    refuse_over_budget(spec_of(recipe), recipe, machine, 1e-9)
