"""How long a worker may be silent, from what its last job measured."""

import pytest

from anime_studio.core.eta import FIRST_SPEEDS, PATIENCE, UNMEASURED, StageSpeeds
from anime_studio.core.jobs import StoredClip
from common.schemas import Stage, Timings
from support.jobs import new_job

SPEC = new_job().spec
SPEEDS = StageSpeeds(
    text_s=1.0, step_s=10.0, frame_s=1.0, store_s=2.0, volume=SPEC.width * SPEC.height * SPEC.num_frames
)


@pytest.mark.parametrize(
    ("stage", "usual_s"),
    [
        (Stage.STARTING, 0.0),
        (Stage.TEXT, 1.0),
        (Stage.DENOISE, 10.0),
        (Stage.DECODE, SPEC.num_frames * 1.0),
        (Stage.STORE, 2.0),
    ],
)
def test_a_stage_may_take_many_times_its_usual_seconds_and_never_less_than_the_setting(
    stage: Stage, usual_s: float
) -> None:
    assert SPEEDS.longest_silence_s(SPEC, stage, 60.0) == max(60.0, PATIENCE * usual_s)


def test_without_a_measured_job_every_stage_has_more_time() -> None:
    for stage in Stage:
        assert FIRST_SPEEDS.longest_silence_s(SPEC, stage, 60.0) == UNMEASURED * 60.0


def test_a_larger_clip_than_the_measured_one_has_the_square_of_the_ratio() -> None:
    larger = SPEC.model_copy(update={"num_frames": SPEC.num_frames * 3})
    assert SPEEDS.longest_silence_s(larger, Stage.DENOISE, 60.0) == PATIENCE * 10.0 * 9
    smaller = SPEC.model_copy(update={"width": 16})
    assert SPEEDS.longest_silence_s(smaller, Stage.DENOISE, 60.0) == PATIENCE * 10.0


def test_a_job_that_succeeded_measures_the_speeds() -> None:
    clip = StoredClip(
        clip_id="c_" + "0" * 32,
        size_bytes=1,
        sha256="",
        poster_size_bytes=1,
        poster_sha256="",
        width=1,
        height=1,
        num_frames=1,
        fps=16,
    )
    timings = Timings(text_s=1.0, denoise_s=30.0, decode_s=SPEC.num_frames * 1.0, store_s=2.0)
    assert StageSpeeds.of(new_job(clip=clip, timings=timings)) == SPEEDS
    assert StageSpeeds.of(new_job(timings=timings)) is None
