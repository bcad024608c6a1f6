"""Jobs as the server writes them, for tests that answer in its place."""

from datetime import UTC, datetime
from typing import Any

from common.schemas import ClipSpec, Job, JobState, Links

JOB_ID = "j_" + "0" * 32
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def job_json(*, version: int = 0, state: str = "queued", prompt: str = "a cat", **more: Any) -> str:
    """Return a job of the tiny recipe as JSON."""
    spec = ClipSpec(
        prompt=prompt,
        prompt_used=prompt,
        seed=7,
        duration=1,
        resolution="480p",  # type: ignore[arg-type]
        width=832,
        height=480,
        native_width=48,
        native_height=32,
        num_frames=17,
        fps=16,
        num_inference_steps=3,
        recipe="tiny-random",
        model_revision="random-0",
    )
    job = Job(
        job_id=JOB_ID,
        request_id="r_test",
        state=JobState(state),
        version=version,
        request=spec,
        created_at=NOON,
        links=Links(self="http://studio.example/jobs/x", events="http://studio.example/jobs/x/events"),
        **more,
    )
    return job.model_dump_json()
