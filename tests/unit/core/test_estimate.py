"""What the next clip should take and cost."""

import pytest

from anime_studio.core.decoders import Decoder
from anime_studio.core.estimate import Estimate, estimate, seconds_of
from anime_studio.core.jobs import JobRecord
from anime_studio.core.pricing import UNBILLED, Machine
from anime_studio.core.recipes import FASTWAN_3STEP, TINY_RANDOM
from common.schemas import JobState, Resolution, StartKind, Timings
from support.jobs import new_job

L4 = Machine("L4", cpu_cores=2, memory_gib=16)


def ended(
    busy_s: float, start_s: float = 0.0, kind: StartKind = StartKind.WARM, **changes: object
) -> JobRecord:
    timings = Timings(queue_s=50, start_s=start_s, text_s=0, denoise_s=busy_s, decode_s=0, store_s=0)
    return new_job(**({"state": JobState.SUCCEEDED, "timings": timings, "start_kind": kind} | changes))


def test_the_median_of_the_last_clips_is_the_estimate_and_waking_comes_apart() -> None:
    jobs = [ended(2.0), ended(4.0, 1.8, StartKind.RESTORED), ended(30.0, 60.0, StartKind.COLD)]
    one = estimate(jobs, TINY_RANDOM, L4, Decoder.FULL, Resolution.P480)
    assert (one.clip_s, one.wake_s, one.projected) == (4.0, pytest.approx(30.9), False)
    assert one.usd == pytest.approx(4.0 * L4.usd_per_s())


def test_clips_of_as_many_pixels_count_alone_whichever_way_up_they_are() -> None:
    large = ended(20.0)
    large = large.model_copy(update={"spec": large.spec.model_copy(update={"resolution": Resolution.P1080})})
    small = [ended(2.0), ended(2.0)]
    of = {name: estimate([*small, large], TINY_RANDOM, L4, Decoder.FULL, name).clip_s for name in Resolution}
    assert (of[Resolution.P480], of[Resolution.P480_PORTRAIT]) == (2.0, 2.0)
    assert (of[Resolution.P1080], of[Resolution.P1080_PORTRAIT]) == (20.0, 20.0)
    assert estimate(small, TINY_RANDOM, L4, Decoder.FULL, Resolution.P1080).clip_s is None
    assert estimate([large], TINY_RANDOM, L4, Decoder.FULL, Resolution.P480).clip_s is None


def test_a_size_that_was_not_measured_is_projected_by_itself() -> None:
    drawn = ended(6.0)
    spec = drawn.spec.model_copy(update={"recipe": FASTWAN_3STEP.name})
    jobs = [drawn.model_copy(update={"spec": spec})]
    large = estimate(jobs, FASTWAN_3STEP, L4, Decoder.FULL, Resolution.P1080)
    nothing = estimate([], FASTWAN_3STEP, L4, Decoder.FULL, Resolution.P480)
    assert large.projected
    assert large.clip_s is not None
    assert nothing.clip_s is not None
    assert large.clip_s > nothing.clip_s


def test_a_queue_takes_what_its_clips_take_if_all_are_known() -> None:
    known, unknown = Estimate(2.0, 0.0, None), Estimate(None, None, None)
    assert (seconds_of([known, known]), seconds_of([known, unknown]), seconds_of([])) == (4.0, None, 0)


def test_without_a_clip_a_gpu_is_projected_and_said_so() -> None:
    one = estimate([ended(1.0, state=JobState.FAILED)], FASTWAN_3STEP, L4, Decoder.FULL, Resolution.P480)
    assert one.projected
    assert one.clip_s is not None
    assert 5 < one.clip_s < 40
    assert one.usd == pytest.approx(one.clip_s * L4.usd_per_s())


def test_a_machine_of_ones_own_costs_nothing_and_its_first_clip_takes_nobody_knows_how_long() -> None:
    one = estimate([], TINY_RANDOM, UNBILLED, Decoder.FULL, Resolution.P480)
    assert (one.clip_s, one.usd, one.wake_s) == (None, 0.0, None)
