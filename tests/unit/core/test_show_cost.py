"""What a show costs, added up by hand."""

import pytest

from anime_studio.core.show_cost import Deployment

SHOW = Deployment(clip_s=10, gpu_usd_per_s=0.002, text_usd_per_s=0.001, scaledown_window_s=20, start_s=2)


def test_a_lone_clip_pays_its_start_and_its_idling_on_both_containers():
    assert SHOW.lone_clip_usd() == pytest.approx((2 + 10 + 20) * 0.003)
    assert SHOW.lone_clip_usd(27.7) == pytest.approx((27.7 + 10 + 20) * 0.003)


@pytest.mark.parametrize(
    ("clips_per_hour", "usd"),
    [
        (60, 60 * 32 * 0.003),  # one a minute: the container sleeps between them
        (120, 3600 * 0.003),  # one in 30 s: it never sleeps
        (720, 720 * 10 * 0.003),  # two GPUs draw all the time
    ],
)
def test_an_hour_costs_clips_or_the_container(clips_per_hour, usd):
    assert SHOW.hour_usd(clips_per_hour) == pytest.approx(usd)
