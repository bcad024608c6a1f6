"""The operator's summary, from records alone."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anime_studio.core.clip import plan
from anime_studio.core.errors import BadFramesError, JobCancelledError
from anime_studio.core.jobs import JobRecord, StoredClip
from anime_studio.core.recipes import (
    DEMO,
    FASTWAN_3STEP,
    FASTWAN_VSA_3STEP,
    RECIPES,
    TINY_RANDOM,
    WAN_50STEP,
    Recipe,
)
from anime_studio.core.show import percentile, recipe_card, summarise
from common.schemas import (
    Cost,
    GenerateRequest,
    JobState,
    Readiness,
    Resolution,
    SignalKind,
    StartKind,
    Timings,
)
from common.show import ShowStatus, Spend

NOW = datetime(2026, 11, 23, 20, 0, tzinfo=UTC)
SPEC = plan(GenerateRequest(prompt="a secret wish", duration=1), TINY_RANDOM, model_revision="r", seed=1)


def queued(number: int) -> JobRecord:
    name = f"{number:032x}"
    return JobRecord(
        job_id=f"j_{name}", clip_id=f"c_{name}", request_id=f"r_{number}", spec=SPEC, created_at=NOW
    )


def succeeded(number: int, total_s: float, usd: float = 0.0, start: StartKind = StartKind.WARM) -> JobRecord:
    clip = StoredClip(
        clip_id=f"c_{number:032x}", size_bytes=1, sha256="0" * 64, poster_size_bytes=1, poster_sha256="0" * 64,
        width=1, height=1, num_frames=5, fps=16,
    )  # fmt: skip
    running = queued(number).claimed(NOW).model_copy(update={"start_kind": start})
    return running.succeeded(clip, Timings(total_s=total_s), Cost(usd=usd, basis="measured"), NOW)


def test_the_paths_are_those_of_the_newest_clip():
    old, new = (succeeded(n, 5).model_copy(update={"paths": (name,)}) for n, name in ((1, "old"), (2, "new")))

    assert summary(failed(3), new, old).paths == ("new",)
    assert summary(failed(3)).paths == ()


def failed(number: int) -> JobRecord:
    job = queued(number).claimed(NOW)
    return job.failed(BadFramesError(f"job {job.job_id} drew black frames").problem(job.request_id), NOW)


def cancelled(number: int) -> JobRecord:
    job = queued(number)
    return job.cancelled(JobCancelledError("stopped").problem(job.request_id), NOW)


def summary(*jobs: JobRecord, **changes: object) -> ShowStatus:
    given_ = {
        "now": NOW,
        "window": timedelta(hours=1),
        "limit": 1000,
        "readiness": Readiness(ready=True, status="ready", detail="idle"),
        "spend": Spend(usd=0.0),
        "signals": {},
        "recipe": "demo",
        "version": "1",
        "uptime_s": 1.0,
    } | changes
    return summarise(jobs, **given_)  # type: ignore[arg-type]


def test_a_night_without_jobs_divides_by_nothing() -> None:
    status = summary()
    assert (status.success_rate, status.stages, status.spend.usd_per_clip) == (None, {}, None)


def test_cancelled_jobs_count_neither_for_nor_against_success() -> None:
    status = summary(succeeded(1, 1), succeeded(2, 1), succeeded(3, 1), failed(4), cancelled(5))
    assert status.success_rate == pytest.approx(0.75)
    assert (status.finished, status.succeeded, status.failed, status.cancelled) == (5, 3, 1, 1)


def test_percentiles_are_durations_that_some_job_had() -> None:
    total = summary(*(succeeded(number, float(number)) for number in range(1, 21))).stages["total"]
    assert (total.count, total.p50_s, total.p95_s) == (20, 10.0, 19.0)


def test_sizes_are_not_mixed_and_upright_clips_count_with_those_lying() -> None:
    def of(resolution: Resolution, number: int, total_s: float) -> JobRecord:
        done = succeeded(number, total_s)
        return done.model_copy(update={"spec": done.spec.model_copy(update={"resolution": resolution})})

    status = summary(
        of(Resolution.P1080, 1, 20.0),
        *(of(Resolution.P480, number, 6.0) for number in (2, 3)),
        of(Resolution.P480_PORTRAIT, 4, 6.5),
    )
    assert list(status.stages_by_size) == [Resolution.P480, Resolution.P1080]
    small, large = (stages["total"] for stages in status.stages_by_size.values())
    assert (small.count, small.p50_s, small.p95_s) == (3, 6.0, 6.5)
    assert (large.count, large.p50_s) == (1, 20.0)
    assert status.stages["total"] == small


_FLOATS = {"allow_subnormal": False}  # another test of the process may have switched them off


@given(st.lists(st.floats(0, 1e6, **_FLOATS), min_size=1), st.floats(0, 1, **_FLOATS))
def test_a_percentile_is_a_value_with_its_share_at_or_below_it(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9


def test_failures_do_not_flatter_the_stage_times_but_their_cost_is_paid() -> None:
    status = summary(
        succeeded(1, 5, usd=0.01), failed(2).model_copy(update={"cost": Cost(usd=0.02, basis="measured")})
    )
    assert status.stages["total"].count == 1
    assert (status.spend.usd, status.spend.usd_per_clip) == (pytest.approx(0.03), pytest.approx(0.03))


def test_spend_is_held_against_the_budget_for_one_clip() -> None:
    status = summary(succeeded(1, 1, usd=0.03), spend=Spend(usd=0.0, budget_usd_per_clip=0.02))
    assert status.spend.budget_used == pytest.approx(1.5)


def test_every_start_that_was_not_warm_is_a_cold_start() -> None:
    kinds = (StartKind.WARM, StartKind.COLD, StartKind.RESTORED, StartKind.RECOVERED)
    status = summary(*(succeeded(number, 1, start=kind) for number, kind in enumerate(kinds)))
    assert status.cold_starts == 3
    assert status.starts == dict.fromkeys(kinds, 1)


def test_the_last_five_errors_are_named_by_request_and_never_by_job() -> None:
    status = summary(*(failed(number) for number in range(7)), list_jobs=10)
    assert [error.request_id for error in status.errors] == [f"r_{number}" for number in range(5)]
    assert status.errors[0].code == "frames_invalid"
    assert status.errors[0].detail == "the job drew black frames"
    text = status.model_dump_json()
    assert "j_0" not in text
    assert "a secret wish" not in text


def test_fallbacks_are_what_clients_reported() -> None:
    assert summary(signals={SignalKind.FALLBACK_PLAYED: 3, SignalKind.PLAYBACK_ERROR: 1}).fallbacks == 3


def test_it_says_when_there_were_more_jobs_than_it_counted() -> None:
    assert summary(succeeded(1, 1), succeeded(2, 1), limit=2).truncated
    assert not summary(succeeded(1, 1), limit=2).truncated


def test_only_as_many_jobs_are_listed_as_were_asked_for() -> None:
    jobs = [succeeded(number, 1) for number in range(5)]
    assert summary(*jobs).jobs == []
    listed = summary(*jobs, list_jobs=2).jobs
    assert [job.request_id for job in listed] == ["r_0", "r_1"]
    assert (listed[0].state, listed[0].resolution) == (JobState.SUCCEEDED, Resolution.P480)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_a_recipe_renders_whatever_its_card_offers(recipe: Recipe) -> None:
    card = recipe_card(recipe)
    for size in card.sizes:
        for duration in (card.duration_s.minimum, card.duration_s.default, card.duration_s.maximum):
            for steps in (card.num_inference_steps.minimum, card.num_inference_steps.maximum):
                request = GenerateRequest(
                    prompt=card.examples[0],
                    duration=duration,
                    resolution=size.resolution,
                    num_inference_steps=round(steps),
                    guidance_scale=card.guidance_scale and card.guidance_scale.default,
                )
                spec = plan(request, recipe, model_revision="r", seed=0)
                assert (spec.width, spec.height) == (size.width, size.height)


def test_only_a_recipe_with_guidance_offers_it() -> None:
    assert recipe_card(FASTWAN_3STEP).guidance_scale is None
    assert recipe_card(WAN_50STEP).guidance_scale is not None
    assert recipe_card(DEMO).model_revision == DEMO.revision


def test_a_sparse_recipe_names_its_attention_as_a_record_does() -> None:
    assert recipe_card(FASTWAN_VSA_3STEP).paths == ("sparse_attention=0.8",)
    assert recipe_card(FASTWAN_3STEP).paths == ()
