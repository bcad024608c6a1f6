"""How far a job is and how long it still takes, from the stage speeds of the worker's last job of the same size.

A stage's share of the whole is its expected seconds: seconds per denoise step and per frame, as
that job measured them. Once a tenth of the job is done, its own elapsed time predicts better.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from anime_studio.core.jobs import JobRecord
from common.schemas import ClipSpec, Progress, Resolution, Stage

TRUST_ELAPSED_FROM: Final = 0.1
PATIENCE: Final = 20.0
"""A worker is hung when one report takes this many times what it usually takes."""
UNMEASURED: Final = 10.0
"""The first job of a worker may be this many times slower than the least limit: nothing is known yet."""


@dataclass(frozen=True, slots=True)
class StageSpeeds:
    """Seconds per unit of work, on one worker.

    Attributes:
        text_s: Prompt to embeddings.
        step_s: One denoise step.
        frame_s: One frame decoded, upscaled and encoded, at the size of the clip that was measured.
        store_s: Publishing the clip.
        volume: Width times height times frames that the model drew for the clip that was measured.
        measured: Whether a job on this worker measured them; if not, only their proportions are used.
    """

    text_s: float
    step_s: float
    frame_s: float
    store_s: float
    volume: int
    measured: bool = True

    @classmethod
    def of(cls, job: JobRecord) -> Self | None:
        """Return the speeds of a job that succeeded, or None."""
        timings, spec = job.timings, job.spec
        if job.clip is None or None in (timings.text_s, timings.denoise_s, timings.decode_s, timings.store_s):
            return None
        return cls(
            text_s=timings.text_s or 0.0,
            step_s=(timings.denoise_s or 0.0) / spec.num_inference_steps,
            frame_s=((timings.decode_s or 0.0) + (timings.upscale_s or 0.0)) / spec.num_frames,
            store_s=timings.store_s or 0.0,
            volume=_volume(spec),
        )

    def longest_silence_s(self, spec: ClipSpec, stage: Stage, least_s: float) -> float:
        """Return how long a worker may be silent in *stage* before it counts as hung.

        Args:
            spec: What is rendered. Where the model draws more than it drew for the measured clip, the worker may
                take the square of the ratio: attention's share of a denoise step grows that fast.
            stage: Stage that the worker reported last.
            least_s: The limit of a stage that is usually short; without a measured job, `UNMEASURED` times that.
        """
        if not self.measured:
            return UNMEASURED * least_s
        usual_s = self._seconds(spec) | {Stage.STARTING: 0.0, Stage.DENOISE: self.step_s}
        larger = max(1.0, _volume(spec) / self.volume)
        return max(least_s, PATIENCE * usual_s[stage] * larger**2)

    def progress(self, spec: ClipSpec, stage: Stage, done: float, *, step: int, elapsed_s: float) -> Progress:
        """Return where a job is.

        Args:
            spec: What is rendered.
            stage: Stage that the job is in.
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


FIRST_SPEEDS: Final = StageSpeeds(
    text_s=0.03, step_s=0.62, frame_s=1.83 / 81, store_s=0.1, volume=832 * 480 * 81, measured=False
)
"""Proportions for a worker's first job. Wan 2.1 1.3B at 832x480, 81 frames, on an H200 in plain bf16: one
denoise step takes 0.62 s and the VAE decode 1.83 s (ADR 0004). The seconds of text and store are rough."""


@dataclass(frozen=True, slots=True)
class LastSpeeds:
    """What the last job of each size measured on one worker: 1080p takes longer for each frame than 480p."""

    _by_size: Mapping[Resolution, StageSpeeds] = field(default_factory=dict)
    _last: StageSpeeds = FIRST_SPEEDS

    def after(self, job: JobRecord) -> Self:
        """Return what is known once *job* has ended; a job without a clip measures nothing."""
        speeds = StageSpeeds.of(job)
        if speeds is None:
            return self
        return type(self)({**self._by_size, job.spec.resolution.landscape: speeds}, speeds)

    def of(self, spec: ClipSpec) -> StageSpeeds:
        """Return the speeds of the last job of the size of *spec*; before the first of that size, of the last job."""
        return self._by_size.get(spec.resolution.landscape, self._last)


def _before(stage: Stage) -> tuple[Stage, ...]:
    order = (Stage.TEXT, Stage.DENOISE, Stage.DECODE, Stage.STORE)
    return order[: order.index(stage)] if stage in order else ()


def _volume(spec: ClipSpec) -> int:
    return spec.native_width * spec.native_height * spec.num_frames
