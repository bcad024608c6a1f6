"""How far a job is, and how long it still takes, from how fast the last one went.

A stage's share of the whole is its expected seconds: so much per denoise step and per
frame, as the worker's last job measured them. Once a tenth is done, the job's own
elapsed time is the better witness.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from anime_studio.core.jobs import JobRecord
from common.schemas import ClipSpec, Progress, Stage

TRUST_ELAPSED_FROM: Final = 0.1


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds per unit of work, on one worker.

    Attributes:
        text_s: Prompt to embeddings.
        step_s: One denoise step.
        frame_s: One frame decoded and encoded.
        store_s: Publishing the clip.
        measured: Whether a job on this worker gave the numbers; else only their proportions are used.
    """

    text_s: float
    step_s: float
    frame_s: float
    store_s: float
    measured: bool = True

    @classmethod
    def of(cls, job: JobRecord) -> Self | None:
        """Return the pace of a job that succeeded, or None."""
        timings, spec = job.timings, job.spec
        if job.clip is None or None in (timings.text_s, timings.denoise_s, timings.decode_s, timings.store_s):
            return None
        return cls(
            text_s=timings.text_s or 0.0,
            step_s=(timings.denoise_s or 0.0) / spec.num_inference_steps,
            frame_s=(timings.decode_s or 0.0) / spec.num_frames,
            store_s=timings.store_s or 0.0,
        )

    def progress(self, spec: ClipSpec, stage: Stage, done: float, *, step: int, elapsed_s: float) -> Progress:
        """Return where a job is.

        Args:
            spec: What is drawn.
            stage: Stage it is in.
            done: Share of that stage that is done, 0 to 1.
            step: Denoise steps done.
            elapsed_s: Since the first stage began.
        """
        seconds = self._seconds(spec)
        whole_s = sum(seconds.values()) or 1.0
        before_s = sum(seconds[earlier] for earlier in _before(stage))
        fraction = min(1.0, (before_s + done * seconds.get(stage, 0.0)) / whole_s)
        if fraction >= TRUST_ELAPSED_FROM:
            eta_s: float | None = elapsed_s * (1 - fraction) / fraction
        else:
            eta_s = whole_s * (1 - fraction) if self.measured else None
        return Progress(
            step=step,
            total_steps=spec.num_inference_steps,
            fraction=round(fraction, 4),
            eta_s=None if eta_s is None else round(eta_s, 2),
        )

    def _seconds(self, spec: ClipSpec) -> dict[Stage, float]:
        return {
            Stage.TEXT: self.text_s,
            Stage.DENOISE: self.step_s * spec.num_inference_steps,
            Stage.DECODE: self.frame_s * spec.num_frames,
            Stage.STORE: self.store_s,
        }


FIRST_PACE: Final = Pace(text_s=0.03, step_s=0.62, frame_s=1.83 / 81, store_s=0.1, measured=False)
"""Proportions for a worker's first job: Wan 2.1 1.3B at 480x832x81 on an H200 in bf16, measured in the
design study (text 27 ms, one forward 620 ms, VAE decode 1,830 ms); storing is a guess."""


def _before(stage: Stage) -> tuple[Stage, ...]:
    order = (Stage.TEXT, Stage.DENOISE, Stage.DECODE, Stage.STORE)
    return order[: order.index(stage)] if stage in order else ()
