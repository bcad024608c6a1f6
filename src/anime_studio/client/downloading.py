"""Download a clip to a file, complete and checked, or leave no file.

The bytes go to a temporary file beside the target. It is renamed once its size and SHA-256
are those of the record. A dropped connection resumes with `Range`; an expired link is
renewed by reading the job again.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from io import BufferedRandom
from pathlib import Path
from typing import Final

import httpx

from anime_studio.client.errors import (
    RETRYABLE_STATUSES,
    ClipGoneError,
    DamagedDownloadError,
    LinkExpiredError,
    StudioError,
    UnreachableError,
    ended,
    error_of,
    own_problem,
    shown,
)
from anime_studio.client.flows import (
    Backoff,
    Flow,
    Read,
    ReadAll,
    Send,
    Sleep,
    Studio,
    get_job,
    with_retry_after,
)
from common.schemas import Clip, Job

_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-\d+/\d+", re.ASCII)


def download(studio: Studio, source: Job | Clip | str, path: Path, *, replace: bool = True) -> Flow[Path]:
    """Save the clip of *source* at *path*.

    Args:
        studio: Where the job is read.
        source: A job or its id, or a bare clip, whose link cannot be renewed.
        path: Target file; its folder must exist.
        replace: Whether a file that is there by then is replaced.

    Raises:
        DownloadError: See `anime_studio.client.errors`.
        JobEndedError: The job has no clip.
        FileExistsError: There is a file, also one made meanwhile, and *replace* is false.
        OSError: The file could not be written.
    """
    job_id, clip = yield from _resolve(studio, source)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield from _fetch(studio, job_id, clip, file)
        partial.chmod(0o666 & ~_umask())
        _place(partial, path, replace=replace)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _place(partial: Path, path: Path, *, replace: bool) -> None:
    if not replace:
        path.touch(exist_ok=False)  # takes the name, or fails; a rename alone would replace
    partial.replace(path)


def _resolve(studio: Studio, source: Job | Clip | str) -> Flow[tuple[str | None, Clip]]:
    if isinstance(source, Clip):
        return None, source
    job = (yield from get_job(studio, source)) if isinstance(source, str) else source
    return job.job_id, _clip_of(job)


def _clip_of(job: Job) -> Clip:
    if job.clip is not None:
        return job.clip
    if job.error is not None:
        raise ended(job)
    if job.state.final:
        raise ClipGoneError(own_problem("clip_gone", f"the clip of job {job.job_id} was swept", status=410))
    detail = f"job {job.job_id} is {job.state}: wait for it before its clip is downloaded"
    raise StudioError(own_problem("clip_not_ready", detail, status=409, retryable=True))


def _fetch(studio: Studio, job_id: str | None, clip: Clip, file: BufferedRandom) -> Flow[None]:
    backoff, renewed, restarted = Backoff(studio.retry_for_s), False, False
    while True:
        before = file.tell()
        try:
            yield from _fetch_rest(clip, file)
        except LinkExpiredError:
            if job_id is None or renewed:
                raise
            clip, renewed = _clip_of((yield from get_job(studio, job_id))), True
            continue
        except StudioError as error:
            if not error.retryable:
                raise
            if file.tell() > before:  # some bytes arrived: the retries start over
                backoff, renewed = Backoff(studio.retry_for_s), False
            yield Sleep(backoff.pause_s(error))
            continue
        if _sha256(file) == clip.sha256:
            return
        if restarted:
            raise DamagedDownloadError(
                f"clip {clip.clip_id} came with another SHA-256 than its record has, twice; nothing was saved"
            )
        restarted = True
        _empty(file)


def _fetch_rest(clip: Clip, file: BufferedRandom) -> Flow[None]:
    """Fetch the bytes that are still missing, in one request."""
    have_bytes = file.tell()
    # Compression would hide the true length, and would not make an MP4 smaller.
    headers = {"Accept-Encoding": "identity"}
    if have_bytes:
        headers |= {"Range": f"bytes={have_bytes}-", "If-Range": f'"{clip.sha256}"'}
    try:
        response: httpx.Response = yield Send("GET", clip.url, headers, stream=True)
        if response.is_error:
            response = yield ReadAll()
            error = with_retry_after(error_of(response), response)
            if response.status_code in RETRYABLE_STATUSES:
                error.problem = error.problem.model_copy(update={"retryable": True})
            raise error
        if response.status_code != 206 or not _resumes_at(have_bytes, response):
            _empty(file)
        while chunk := (yield Read()):
            file.write(chunk)
            if file.tell() > clip.size_bytes:
                _empty(file)
                raise DamagedDownloadError(
                    f"clip {clip.clip_id} is longer than the {clip.size_bytes} bytes of its record"
                )
    except httpx.RequestError as cause:
        raise UnreachableError(shown(clip.url), cause) from cause
    if file.tell() < clip.size_bytes:
        raise DamagedDownloadError(
            f"clip {clip.clip_id} broke off at {file.tell()} of {clip.size_bytes} bytes"
        )


def _resumes_at(have_bytes: int, response: httpx.Response) -> bool:
    match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
    return match is not None and int(match[1]) == have_bytes


def _empty(file: BufferedRandom) -> None:
    file.seek(0)
    file.truncate()


def _sha256(file: BufferedRandom) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()


def _umask() -> int:
    # Setting the mask is the only way to read it.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
