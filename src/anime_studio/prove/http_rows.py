"""The rows that are seen from outside, over HTTP: first clip, links, three at once, cancel, a stopped container, the sum."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import cycle
from typing import Final
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx

from anime_studio.client import StudioClient
from anime_studio.client.connection import settings_for
from anime_studio.prove.account import Account
from anime_studio.prove.memory import MemoryFile
from anime_studio.prove.prompts import PROMPTS
from anime_studio.prove.rows import Found, Say
from common.prove import Verdict
from common.schemas import Clip, Job, JobState, StartKind

SOURCE: Final = "prove"
HTTP_TIMEOUT_S: Final = 180.0
"""`POST /generate` waits for `ANIME_STUDIO_GENERATE_WAIT_S` (100 s), and Modal cuts HTTP at 150 s."""
JOB_TIMEOUT_S: Final = 1800.0
CANCEL_SLACK_S: Final = 5.0
"""On top of one step: the worker reads the mark twice a second, and the last word travels over a stream."""
PREEMPT_TRIES: Final = 3
"""With two warm containers the one that is stopped may not be the one that renders."""
ONCE_MORE: Final = 0.01
"""Relative difference at which two sums of dollars are the same."""
_MANY_STEPS: Final = 10


class HttpRows:
    """Checks rows at one address.

    Args:
        url: Of the studio, without a slash at its end.
        account: Stops containers and lists the Volume.
        kept: What the rows share with each other and with a later run.
        say: Shows a line to people.
        base_url: With which links begin, where the deployment sets it.
        prompts: Of the jobs, in turn.
    """

    def __init__(
        self,
        url: str,
        account: Account,
        kept: MemoryFile,
        say: Say,
        *,
        base_url: str | None = None,
        prompts: Sequence[str] = PROMPTS,
    ) -> None:
        self._prompts = cycle(prompts)
        self._url, self._account, self._kept, self._say = url, account, kept, say
        self._public_url = (base_url or url).rstrip("/")
        self._studio = StudioClient(url)
        self._http = httpx.Client(**settings_for(url))

    def close(self) -> None:
        """Close the connections."""
        self._studio.close()
        self._http.close()

    def first(self) -> Found:
        """Ask for the first clip of a fresh deployment, with one request that waits."""
        body = {"prompt": next(self._prompts), "seed": 7, "source": SOURCE}
        begun = time.monotonic()
        answer = self._http.post(f"{self._url}/generate", json=body, timeout=HTTP_TIMEOUT_S)
        waited_s = time.monotonic() - begun
        if answer.status_code not in (200, 202):
            return Found(
                Verdict.FALLS_SHORT, f"POST /generate answered {answer.status_code}: {answer.text[:300]}"
            )
        job = self._ended(Job.model_validate_json(answer.content))
        if (failure := _failure(job)) is not None:
            return failure
        self._keep_link(job.clip)
        total_s = time.monotonic() - begun
        if answer.status_code == 202:
            return Found(
                Verdict.FALLS_SHORT,
                f"the first answer, after {waited_s:.0f} s, was 202; the clip came after {total_s:.0f} s, so a caller "
                f"must ask again ({_start_of(job)})",
            )
        detail = f"answered with the clip after {waited_s:.1f} s ({_start_of(job)})"
        if not self._was_fresh(job):
            return Found(
                Verdict.NOT_CHECKED,
                f"{detail}, but the deployment had drawn before; deploy with another ANIME_STUDIO_RELEASE, let the "
                "containers stop, and run: anime-studio prove --row first",
            )
        return Found(Verdict.HOLDS, detail)

    def links(self) -> Found:
        """Open a clip's link as browsers, players and strangers do."""
        clip = self._some_clip()
        wrong = list(filter(None, (self._origin(clip), *self._bytes(clip), self._altered(clip))))
        if wrong:
            return Found(Verdict.FALLS_SHORT, "; ".join(wrong))
        return Found(
            Verdict.HOLDS,
            f"links begin with {self._public_url}; whole clip, Range and HEAD as they should be; an altered link is refused",
        )

    def expired(self) -> Found:
        """Wait until a link of this run has expired, and open it."""
        memory = self._kept.memory
        if memory.link is None or memory.link_expires_at is None:
            self._keep_link(self._some_clip())
            memory = self._kept.memory
        assert memory.link is not None
        assert memory.link_expires_at is not None
        left_s = (memory.link_expires_at - datetime.now(UTC)).total_seconds() + 2
        if left_s > 0:
            self._say(
                f"waiting until {memory.link_expires_at:%H:%M:%S} UTC, when a link expires; no GPU waits with it"
            )
            time.sleep(left_s)
        answer = self._http.get(memory.link)
        if answer.status_code == 403 and "url_expired" in answer.text:
            return Found(Verdict.HOLDS, "a link that has expired answers 403 url_expired")
        return Found(Verdict.FALLS_SHORT, f"a link that has expired answered {answer.status_code}")

    def three(self) -> Found:
        """Ask for three clips at once."""
        begun = time.monotonic()
        asked = [self._studio.submit(next(self._prompts), seed=seed, source=SOURCE) for seed in (1, 2, 3)]
        jobs = [self._ended(job) for job in asked]
        took_s = time.monotonic() - begun
        table = (
            ("seed", "state", "start", "queue", "start took", "render"),
            *(
                (
                    str(job.request.seed),
                    job.state.value,
                    str(job.start_kind),
                    _s(job.timings.queue_s),
                    _s(job.timings.start_s),
                    _s(job.timings.busy_s),
                )
                for job in jobs
            ),
        )
        failures = [failure.detail for job in jobs if (failure := _failure(job)) is not None]
        clips = {job.clip.clip_id for job in jobs if job.clip is not None}
        if failures or len(clips) < len(jobs):
            return Found(Verdict.FALLS_SHORT, "; ".join(failures) or "two jobs have the same clip", table)
        return Found(Verdict.HOLDS, f"three clips after {took_s:.1f} s", table)

    def cancel(self) -> Found:
        """Cancel a job at a step: it ends within the next one, and its container goes on."""
        job, step_s = self._at_its_steps()
        if job.state.final:
            return _failure(job) or Found(Verdict.NOT_CHECKED, "the job ended before it could be cancelled")
        begun = time.monotonic()
        self._studio.cancel(job.job_id)
        ended = self._ended(job)
        took_s, allowed_s = time.monotonic() - begun, step_s + CANCEL_SLACK_S
        if ended.state is not JobState.CANCELLED:
            return Found(Verdict.FALLS_SHORT, f"a cancelled job ended as {ended.state}")
        detail = f"cancelled at step {job.progress.step}, it ended {took_s:.1f} s later; a step takes {step_s:.1f} s"
        if ended.clip is not None:
            return Found(Verdict.FALLS_SHORT, f"{detail}; it has a clip all the same")
        if took_s > allowed_s:
            return Found(Verdict.FALLS_SHORT, f"{detail}; {allowed_s:.1f} s are allowed")
        if self._account.report().first:
            return Found(Verdict.FALLS_SHORT, f"{detail}; its container is gone: the next job pays a start")
        return Found(Verdict.HOLDS, f"{detail}, and its container goes on")

    def preempt(self) -> Found:
        """Stop a container while it renders: the same job ends with one clip, rendered by another container."""
        for _ in range(PREEMPT_TRIES):
            container = self._account.report().container
            job, _ = self._at_its_steps()
            if job.state.final:
                return _failure(job) or Found(
                    Verdict.NOT_CHECKED, "the job ended before its container was stopped"
                )
            self._account.stop(container)
            ended = self._ended(job)
            if (failure := _failure(ended)) is not None:
                return failure
            if ended.attempts > 1:
                return self._one_clip(job, ended)
            self._say("the job was in another container; once more")
        return Found(
            Verdict.NOT_CHECKED,
            "no job was in the container that was stopped; deploy with ANIME_STUDIO_MAX_CONTAINERS=1 and run: "
            "anime-studio prove --row preempt",
        )

    def spend(self) -> Found:
        """Compare the sum of `/status` with the receipts of this run."""
        memory = self._kept.memory
        if not memory.receipts:
            return Found(Verdict.NOT_CHECKED, "no job of this run has a receipt yet")
        window = datetime.now(UTC) - memory.begun_at + timedelta(minutes=5)
        status = self._studio.show_status(window_s=max(60, int(window.total_seconds())), jobs=1000)
        shown = {job.request_id: job.cost.usd for job in status.jobs if job.cost is not None}
        lost = [each.request_id for each in memory.receipts if each.request_id not in shown]
        other = [
            f"{each.request_id}: ${each.usd:.6f}, shown ${shown[each.request_id]:.6f}"
            for each in memory.receipts
            if each.request_id in shown and not same(each.usd, shown[each.request_id])
        ]
        ours_usd, listed_usd = sum(each.usd for each in memory.receipts), sum(shown.values())
        if lost or other:
            return Found(
                Verdict.FALLS_SHORT,
                "; ".join([*(f"/status does not show {name}" for name in lost), *other]),
            )
        if not status.truncated and not same(listed_usd, status.spend.usd):
            return Found(
                Verdict.FALLS_SHORT,
                f"the receipts of /status sum to ${listed_usd:.6f}, and it says ${status.spend.usd:.6f}",
            )
        return Found(
            Verdict.HOLDS,
            f"/status says ${status.spend.usd:.4f}, the sum of its receipts; ${ours_usd:.4f} of it are the "
            f"{len(memory.receipts)} jobs of this run",
        )

    def _was_fresh(self, job: Job) -> bool:
        """Whether *job* waited for a start that restored no snapshot, as the first one of a deployment does."""
        if job.start_kind is StartKind.WARM:
            return False
        record = self._account.record_of(self._account.report().container)
        if record is None or not record.kind:
            return job.start_kind is StartKind.COLD
        return record.kind != "restore"

    def _one_clip(self, asked: Job, ended: Job) -> Found:
        assert ended.clip is not None
        clip_id = ended.clip.clip_id
        files = self._account.files_of(clip_id)
        detail = (
            f"its container was stopped at step {asked.progress.step}; it was taken {ended.attempts} times"
        )
        endings = sorted(name.rpartition(".")[2] for name in files)
        if endings != ["jpg", "json", "mp4"]:
            return Found(
                Verdict.FALLS_SHORT, f"{detail}, and the Volume holds {', '.join(files) or 'no file of it'}"
            )
        return Found(Verdict.HOLDS, f"{detail}, and ended as the same job with one clip, {clip_id}")

    def _at_its_steps(self) -> tuple[Job, float]:
        """Return a long job that is at its steps, or final, and the seconds of one step."""
        bounds = self._studio.recipe()
        steps = bounds.num_inference_steps
        job = self._studio.submit(
            next(self._prompts),
            seed=7,
            source=SOURCE,
            duration=bounds.duration_s.maximum,
            num_inference_steps=round(steps.default if steps.default >= _MANY_STEPS else steps.maximum),
        )
        begun = time.monotonic()
        for version in self._studio.events(job.job_id, timeout_s=JOB_TIMEOUT_S):
            job = version
            if job.state.final or job.progress.step > 0:
                break
            begun = time.monotonic()  # so that it is the last moment before the first step's end
        if job.state.final:
            self._kept.note_receipt(job)
        return job, (time.monotonic() - begun) / max(1, job.progress.step)

    def _ended(self, job: Job) -> Job:
        if not job.state.final:
            for _ in self._studio.events(job.job_id, timeout_s=JOB_TIMEOUT_S):
                pass
            job = self._studio.get(job.job_id)
        self._kept.note_receipt(job)
        return job

    def _some_clip(self) -> Clip:
        smallest = self._studio.recipe().duration_s.minimum
        job = self._ended(self._studio.submit(next(self._prompts), seed=7, source=SOURCE, duration=smallest))
        if job.clip is None:
            raise RuntimeError(f"there is no clip to open: {job.error.detail if job.error else job.state}")
        if self._kept.memory.link is None:
            self._keep_link(job.clip)
        return job.clip

    def _keep_link(self, clip: Clip | None) -> None:
        if clip is not None:
            self._kept.keep(link=clip.url, link_expires_at=clip.expires_at)

    def _origin(self, clip: Clip) -> str | None:
        if clip.url.startswith(f"{self._public_url}/"):
            return None
        return f"links begin with {_origin_of(clip.url)}, and the studio is at {self._public_url}"

    def _bytes(self, clip: Clip) -> list[str | None]:
        whole = self._http.get(clip.url)
        part = self._http.get(clip.url, headers={"Range": "bytes=4-11"})
        head = self._http.head(clip.url)
        asked: tuple[tuple[str, Callable[[], bool]], ...] = (
            (
                f"GET answered {whole.status_code} with {len(whole.content)} bytes",
                lambda: whole.status_code == 200 and len(whole.content) == clip.size_bytes,
            ),
            (
                f"a Range answered {part.status_code} with {len(part.content)} bytes",
                lambda: part.status_code == 206 and part.content == whole.content[4:12],
            ),
            (
                f"HEAD answered {head.status_code}, Content-Length {head.headers.get('content-length')}",
                lambda: (
                    head.status_code == 200 and head.headers.get("content-length") == str(clip.size_bytes)
                ),
            ),
        )
        return [None if holds() else what for what, holds in asked]

    def _altered(self, clip: Clip) -> str | None:
        parts = urlsplit(clip.url)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        later = query | {"expires": str(int(query["expires"]) + 60)}
        status = self._http.get(parts._replace(query=urlencode(later)).geturl()).status_code
        return None if status == 403 else f"a link whose expiry was altered answered {status}"


def same(one_usd: float, other_usd: float) -> bool:
    """Whether two sums of dollars are the same but for rounding."""
    return abs(one_usd - other_usd) <= max(ONCE_MORE * max(one_usd, other_usd), 1e-6)


def _failure(job: Job) -> Found | None:
    if job.state is JobState.SUCCEEDED and job.clip is not None:
        return None
    reason = f": {job.error.detail}" if job.error else ""
    return Found(Verdict.FALLS_SHORT, f"a job ended as {job.state}{reason}")


def _start_of(job: Job) -> str:
    timings = job.timings
    return f"start {job.start_kind}, {_s(timings.start_s)} of it our own code; queue {_s(timings.queue_s)}"


def _s(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f} s"


def _origin_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
