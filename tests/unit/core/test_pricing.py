"""A receipt is seconds times a dated, published rate."""

import pytest

from anime_studio.core.errors import ConfigurationError
from anime_studio.core.pricing import MODAL_RATES, UNBILLED, Machine, billed_seconds, receipt
from common.schemas import Timings

L4 = Machine("L4", cpu_cores=2, memory_gib=16)
TIMINGS = Timings(queue_s=100, start_s=1, text_s=0.5, denoise_s=20, decode_s=8, store_s=0.5, total_s=130)


def test_an_l4_costs_what_its_parts_cost():
    assert L4.usd_per_s() == pytest.approx(0.000222 + 2 * 0.0000131 + 16 * 0.00000222)


def test_waiting_is_not_billed():
    assert billed_seconds(TIMINGS) == 30


def test_a_receipt_can_be_checked_by_hand():
    cost = receipt(TIMINGS, L4)

    assert cost.usd == pytest.approx(30 * L4.usd_per_s(), abs=1e-6)
    for part in ("30.00 s", "L4", "2 cores", "16 GiB", f"{MODAL_RATES.as_of:%Y-%m-%d}"):
        assert part in cost.basis


def test_a_job_that_ended_early_is_billed_for_what_it_ran():
    assert receipt(Timings(queue_s=9, start_s=2), L4).usd == pytest.approx(2 * L4.usd_per_s(), abs=1e-6)


def test_nobody_bills_for_a_laptop():
    assert receipt(TIMINGS, UNBILLED).usd == 0


@pytest.mark.parametrize("gpu", ["H100!", "H100:1"])
def test_modals_ways_of_writing_a_gpu(gpu):
    assert Machine(gpu).usd_per_s() == MODAL_RATES.gpu_usd_per_s["H100"]


def test_a_gpu_without_a_price_is_refused_with_those_that_have_one():
    with pytest.raises(ConfigurationError, match="L40S"):
        Machine("T5").usd_per_s()


def test_the_seconds_of_an_upscaler_are_billed() -> None:
    upscaled = TIMINGS.model_copy(update={"upscale_s": 1.5})
    assert billed_seconds(upscaled) == pytest.approx(billed_seconds(TIMINGS) + 1.5)
    assert upscaled.busy_s == pytest.approx(TIMINGS.busy_s + 1.5)
