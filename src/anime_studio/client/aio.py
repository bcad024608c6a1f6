"""`AsyncStudioClient`: runs the flows on an event loop."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Generic, Self, TypeVar, Unpack
from urllib.parse import quote

import httpx

from anime_studio.client import flows
from anime_studio.client.connection import (
    DEFAULT_URL,
    PATIENCE_S,
    RETRY_FOR_S,
    Body,
    check_encoding,
    checking_environment,
    request_of,
    settings_for,
    studio_at,
)
from anime_studio.client.downloading import download
from anime_studio.client.flows import Effect, Flow, Read, ReadAll, Report, Send, Sleep
from anime_studio.client.following import follow, wait
from anime_studio.client.requests import Options, Size, body_of, new_key
from common.operator import OperatorAction, OperatorAnswer, OperatorView
from common.schemas import ClientSignal, ClientSignals, Clip, Health, Job, Readiness, SignalsAccepted
from common.show import ChannelClips, RecipeCard, ShowStatus

T = TypeVar("T")
OnProgress = Callable[[Job], object]


class AsyncStudioClient:
    """The asyncio client, for bots and servers. Methods raise `StudioError`; see `anime_studio.client.errors`.

    Args:
        url: The studio's address, without a path unless it is served under one.
        retry_for_s: How long a call without an answer, or with 408, 429, 502, 503 or 504, is retried; 0 tries once.
        patience_s: How long `wait` goes on while the server does not answer, as during its restart.
        transport: Another httpx transport, for tests and proxies.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        retry_for_s: float = RETRY_FOR_S,
        patience_s: float = PATIENCE_S,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._studio = studio_at(url, retry_for_s, patience_s)
        with checking_environment():
            self._http = httpx.AsyncClient(transport=transport, **settings_for(self._studio.url))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def generate(
        self,
        prompt: str,
        *,
        timeout_s: float | None = None,
        on_progress: OnProgress | None = None,
        idempotency_key: str | None = None,
        **options: Unpack[Options],
    ) -> Job:
        """Make a clip and wait for it: `submit`, then `wait`.

        The first job that `on_progress` gets is the accepted one: store its id to resume it later.
        """
        job = await self.submit(prompt, idempotency_key=idempotency_key, **options)
        return await self.wait(job.job_id, timeout_s, on_progress)

    async def submit(
        self, prompt: str, *, idempotency_key: str | None = None, **options: Unpack[Options]
    ) -> Job:
        """Create a job and return it. The same key and request name the same job."""
        body = body_of(prompt, options)
        return await self._run(flows.submit(self._studio, body, idempotency_key or new_key()))

    async def wait(
        self, job_id: str, timeout_s: float | None = None, on_progress: OnProgress | None = None
    ) -> Job:
        """Return the job once it has a clip; `on_progress` gets each of its versions and may be a coroutine function.

        Raises:
            JobTimeoutError: It had not ended after *timeout_s* seconds; it continues.
            JobEndedError: It ended without a clip.
        """
        return await self._run(wait(self._studio, job_id, timeout_s), on_progress)

    async def resume(
        self, job_id: str, timeout_s: float | None = None, on_progress: OnProgress | None = None
    ) -> Job:
        """Wait for a job that was created earlier, perhaps by another process: the same as `wait`."""
        return await self.wait(job_id, timeout_s, on_progress)

    async def events(
        self, job_id: str, *, after: int = -1, timeout_s: float | None = None
    ) -> AsyncIterator[Job]:
        """Yield each version of the job above *after*, to its end, across dropped connections and restarts."""
        async with _Exchange(self._http, follow(self._studio, job_id, timeout_s, after)) as exchange:
            async for job in exchange.jobs():
                yield job

    async def get(self, job_id: str) -> Job:
        """Return the job; a finished one has a fresh link."""
        return await self._run(flows.get_job(self._studio, job_id))

    async def cancel(self, job_id: str) -> Job:
        """Cancel the job: a queued one at once, a running one at its next step. Safe to repeat."""
        return await self._run(flows.cancel(self._studio, job_id))

    async def show_clip(self, job_id: str) -> Job:
        """Put the clip of a job that was made with `hold` on its channel. Safe to repeat."""
        return await self._run(flows.show_clip(self._studio, job_id))

    async def download(self, source: Job | Clip | str, path: str | Path, *, replace: bool = True) -> Path:
        """Save a clip at *path*; without *replace*, FileExistsError if a file is there. See `downloading.download`."""
        return await self._run(download(self._studio, source, Path(path), replace=replace))

    async def health(self) -> Health:
        """Return the server's version, recipe and uptime."""
        return await self._run(flows.read(self._studio, "/health", Health))

    async def ready(self, resolution: Size | None = None) -> Readiness:
        """Return whether a job posted now would be rendered, and when. Asks once: poll it to wait.

        Its seconds and dollars are those of a clip of *resolution*; without one, of the first that the recipe offers.
        """
        return await self._run(flows.ready(self._studio, resolution))

    async def recipe(self) -> RecipeCard:
        """Return the deployment's recipe and its bounds."""
        return await self._run(flows.read(self._studio, "/recipe", RecipeCard))

    async def show_status(self, *, window_s: int = 3600, jobs: int = 0) -> ShowStatus:
        """Return the operator's summary of the last *window_s* seconds, with up to *jobs* jobs listed."""
        path = f"/status?window_s={window_s}&jobs={jobs}"
        return await self._run(flows.read(self._studio, path, ShowStatus))

    async def channel_clips(self, channel: str, after: int | None = None) -> ChannelClips:
        """Return a channel's clips above the sequence number *after*, oldest first; without one, the newest 20."""
        path = f"/channels/{quote(channel, safe='')}/clips" + ("" if after is None else f"?after={after}")
        return await self._run(flows.read(self._studio, path, ChannelClips))

    async def operator_view(self, key: str | None = None) -> OperatorView:
        """Return the show as its operator sees it, job ids and prompts included; *key* is the operator's."""
        return await self._run(flows.operator_view(self._studio, key))

    async def operate(self, action: OperatorAction, key: str | None = None) -> OperatorAnswer:
        """Do what the operator may: cancel, clear, hide, show, pause, resume. Safe to repeat."""
        return await self._run(flows.operate(self._studio, action, key))

    async def warm(self) -> Readiness:
        """Ask for a ready worker and return the readiness now; poll `ready` to wait for it."""
        return await self._run(flows.warm(self._studio))

    async def signal(self, *signals: ClientSignal) -> int:
        """Report to the operator, without a retry; return how many signals were counted."""
        body = ClientSignals(signals=list(signals))
        answer = await self._run(flows.post(self._studio, "/telemetry/signals", body, SignalsAccepted))
        return answer.accepted

    async def _run(self, flow: Flow[T], on_progress: OnProgress | None = None) -> T:
        async with _Exchange(self._http, flow) as exchange:
            async for job in exchange.jobs():
                if on_progress is not None:
                    shown = on_progress(job)
                    if inspect.isawaitable(shown):
                        await shown
            return exchange.result


class _Exchange(Generic[T]):
    """Runs one flow; at most one answer is open at a time."""

    result: T

    def __init__(self, http: httpx.AsyncClient, flow: Flow[T]) -> None:
        self._http = http
        self._flow = flow
        self._answer: httpx.Response | None = None
        self._chunks: AsyncIterator[bytes]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._flow.close()
        await self._close()

    async def jobs(self) -> AsyncIterator[Job]:
        """Yield the jobs that the flow reports; afterwards `result` is what it returned."""
        outcome: Any = None
        fault: httpx.RequestError | None = None
        while True:
            try:
                effect = self._flow.send(outcome) if fault is None else self._flow.throw(fault)
            except StopIteration as end:
                self.result = end.value
                return
            outcome, fault = None, None
            if isinstance(effect, Report):
                yield effect.job
                continue
            try:
                outcome = await self._perform(effect)
            except httpx.RequestError as error:
                fault = error
            except httpx.InvalidURL as error:  # in an answer: a clip's link or a redirect
                fault = httpx.UnsupportedProtocol(str(error))

    async def _perform(self, effect: Effect) -> Any:
        match effect:
            case Send():
                await self._close()
                request = request_of(self._http, effect)
                self._answer = await self._http.send(
                    request, stream=True, follow_redirects=effect.follows_redirects
                )
                check_encoding(self._answer)
                self._chunks = self._answer.aiter_bytes()
                return self._answer if effect.stream else await self._read_all(self._answer)
            case Read():
                return await anext(self._chunks, b"")
            case ReadAll() if self._answer is not None:
                return await self._read_all(self._answer)
            case Sleep():
                return await asyncio.sleep(effect.seconds)

    async def _read_all(self, answer: httpx.Response) -> httpx.Response:
        body = Body(answer)
        async for chunk in self._chunks:
            body.add(chunk)
        return body.whole()

    async def _close(self) -> None:
        if self._answer is not None:
            await self._answer.aclose()
