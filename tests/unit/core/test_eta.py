"""How long a worker may be silent, from what its last job measured."""

import pytest

from anime_studio.core.eta import FIRST_SPEEDS, PATIENCE, UNMEASURED, LastSpeeds, StageSpeeds
from anime_studio.core.jobs import JobRecord, StoredClip
from common.schemas import Resolution, Stage, Timings
from support.jobs import new_job

SPEC = new_job().spec
SPEEDS = StageSpeeds(
    text_s=1.0,
    step_s=10.0,
    frame_s=1.0,
    store_s=2.0,
    volume=SPEC.native_width * SPEC.native_height * SPEC.num_frames,
)
CLIP = StoredClip(
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
    smaller = SPEC.model_copy(update={"native_width": 16})
    assert SPEEDS.longest_silence_s(smaller, Stage.DENOISE, 60.0) == PATIENCE * 10.0


def test_a_job_that_succeeded_measures_the_speeds() -> None:
    timings = Timings(text_s=1.0, denoise_s=30.0, decode_s=SPEC.num_frames * 1.0, store_s=2.0)
    assert StageSpeeds.of(new_job(clip=CLIP, timings=timings)) == SPEEDS
    assert StageSpeeds.of(new_job(timings=timings)) is None


def ended(resolution: Resolution, decode_s: float) -> JobRecord:
    width, height = resolution.size
    spec = SPEC.model_copy(update={"resolution": resolution, "width": width, "height": height})
    timings = Timings(text_s=1.0, denoise_s=30.0, decode_s=decode_s, store_s=2.0)
    return new_job(spec=spec, clip=CLIP, timings=timings)


def test_seconds_of_a_frame_come_from_the_last_clip_of_the_same_size() -> None:
    small, large = ended(Resolution.P480, 17.0), ended(Resolution.P1080, 85.0)
    speeds = LastSpeeds().after(small).after(large)
    assert speeds.of(small.spec).frame_s * SPEC.num_frames == pytest.approx(17.0)
    assert speeds.of(ended(Resolution.P480_PORTRAIT, 0).spec) == speeds.of(small.spec)
    assert speeds.of(ended(Resolution.P1080_PORTRAIT, 0).spec).frame_s * SPEC.num_frames == pytest.approx(
        85.0
    )


def test_before_the_first_clip_of_a_size_the_last_clip_is_all_that_is_known() -> None:
    large = ended(Resolution.P1080, 85.0)
    assert LastSpeeds().of(SPEC) == FIRST_SPEEDS
    assert LastSpeeds().after(large).of(SPEC) == StageSpeeds.of(large)


def test_1080p_gives_a_longer_clip_of_480p_no_less_time_for_a_step() -> None:
    """Both are drawn at the size of 480p: only the number of frames counts."""
    longer = SPEC.model_copy(update={"num_frames": SPEC.num_frames * 3})
    speeds = LastSpeeds().after(ended(Resolution.P1080, 85.0)).of(longer)
    assert speeds.longest_silence_s(longer, Stage.DENOISE, 60.0) == PATIENCE * 10.0 * 9
