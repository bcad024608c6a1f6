"""`AsyncStudioClient`: the flows, driven on an event loop."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Generic, Self, TypeVar, Unpack

import httpx

from anime_studio.client import flows
from anime_studio.client.connection import (
    DEFAULT_URL,
    PATIENCE_S,
    RETRY_FOR_S,
    arguments,
    follows,
    request_of,
    studio_at,
)
from anime_studio.client.downloading import download
from anime_studio.client.flows import Effect, Flow, Read, ReadAll, Send, Sleep, Tell
from anime_studio.client.following import follow, wait
from anime_studio.client.requests import Options, body_of, new_key
from common.schemas import ClientSignal, ClientSignals, Clip, Health, Job, Readiness, SignalsAccepted
from common.show import RecipeCard, ShowStatus

T = TypeVar("T")
OnProgress = Callable[[Job], object]


class AsyncStudioClient:
    """A studio, for bots and servers. Methods raise `StudioError`; see `anime_studio.client.errors`.

    Args:
        url: The studio's address, without a path unless it is served under one.
        retry_for_s: How long a call that met no answer, 429, 502, 503 or 504 is repeated; 0 tries once.
        patience_s: How long a wait bears with a server that does not answer, as during its restart.
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
        self._http = httpx.AsyncClient(transport=transport, **arguments(self._studio.url))

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

        `on_progress` is shown the job first as it was accepted: keep its id to resume it later.
        """
        job = await self.submit(prompt, idempotency_key=idempotency_key, **options)
        return await self.wait(job.job_id, timeout_s, on_progress)

    async def submit(
        self, prompt: str, *, idempotency_key: str | None = None, **options: Unpack[Options]
    ) -> Job:
        """Make a job and return it as it stands. The same key and request name the same job."""
        body = body_of(prompt, options)
        return await self._run(flows.submit(self._studio, body, idempotency_key or new_key()))

    async def wait(
        self, job_id: str, timeout_s: float | None = None, on_progress: OnProgress | None = None
    ) -> Job:
        """Return the job once it has a clip; `on_progress` is shown each of its versions; it may be a coroutine function.

        Raises:
            JobTimeoutError: It had not ended after *timeout_s* seconds; it goes on.
            JobEndedError: It ended without a clip.
        """
        return await self._run(wait(self._studio, job_id, timeout_s), on_progress)

    async def resume(
        self, job_id: str, timeout_s: float | None = None, on_progress: OnProgress | None = None
    ) -> Job:
        """Take up a job made earlier, perhaps by another process: the same as `wait`."""
        return await self.wait(job_id, timeout_s, on_progress)

    async def events(
        self, job_id: str, *, after: int = -1, timeout_s: float | None = None
    ) -> AsyncIterator[Job]:
        """Yield each version of the job above *after*, to its end, across drops and restarts."""
        async with _Exchange(self._http, follow(self._studio, job_id, timeout_s, after)) as exchange:
            async for job in exchange.told():
                yield job

    async def get(self, job_id: str) -> Job:
        """Return the job as it stands; a finished one has a fresh link."""
        return await self._run(flows.get_job(self._studio, job_id))

    async def cancel(self, job_id: str) -> Job:
        """Cancel the job: a queued one at once, a running one at its next step. Safe to repeat."""
        return await self._run(flows.cancel(self._studio, job_id))

    async def download(self, source: Job | Clip | str, path: str | Path) -> Path:
        """Save a clip at *path*, replacing what is there; see `downloading.download`."""
        return await self._run(download(self._studio, source, Path(path)))

    async def health(self) -> Health:
        """Return what the server says of itself."""
        return await self._run(flows.read(self._studio, "/health", Health))

    async def ready(self) -> Readiness:
        """Return whether a job posted now would be drawn. Asks once: poll it to wait."""
        return await self._run(flows.ready(self._studio))

    async def recipe(self) -> RecipeCard:
        """Return what the deployment draws, and within which bounds."""
        return await self._run(flows.read(self._studio, "/recipe", RecipeCard))

    async def show_status(self, *, window_s: int = 3600, jobs: int = 0) -> ShowStatus:
        """Return the operator's summary of the last *window_s* seconds, with up to *jobs* jobs listed."""
        path = f"/status?window_s={window_s}&jobs={jobs}"
        return await self._run(flows.read(self._studio, path, ShowStatus))

    async def warm(self) -> Readiness:
        """Ask for a worker to be made ready, and return how things stand; poll `ready` for the rest."""
        return await self._run(flows.warm(self._studio))

    async def signal(self, *signals: ClientSignal) -> int:
        """Tell the operator what was seen here, once; return how many signals were counted."""
        body = ClientSignals(signals=list(signals))
        answer = await self._run(flows.post(self._studio, "/telemetry/signals", body, SignalsAccepted))
        return answer.accepted

    async def _run(self, flow: Flow[T], on_progress: OnProgress | None = None) -> T:
        async with _Exchange(self._http, flow) as exchange:
            async for job in exchange.told():
                if on_progress is not None:
                    shown = on_progress(job)
                    if inspect.isawaitable(shown):
                        await shown
            return exchange.result


class _Exchange(Generic[T]):
    """One flow, driven; at most one answer is open at a time."""

    result: T

    def __init__(self, http: httpx.AsyncClient, flow: Flow[T]) -> None:
        self._http = http
        self._flow = flow
        self._answer: httpx.Response | None = None
        self._chunks: AsyncIterator[bytes] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._flow.close()
        await self._close()

    async def told(self) -> AsyncIterator[Job]:
        """Yield what the flow tells; afterwards `result` is what it returned."""
        outcome: Any = None
        fault: httpx.RequestError | None = None
        while True:
            try:
                effect = self._flow.send(outcome) if fault is None else self._flow.throw(fault)
            except StopIteration as end:
                self.result = end.value
                return
            outcome, fault = None, None
            if isinstance(effect, Tell):
                yield effect.job
                continue
            try:
                outcome = await self._perform(effect)
            except httpx.RequestError as error:
                fault = error

    async def _perform(self, effect: Effect) -> Any:
        match effect:
            case Send():
                await self._close()
                request = request_of(self._http, effect)
                self._answer = await self._http.send(request, stream=True, follow_redirects=follows(effect))
                self._chunks = self._answer.aiter_bytes()
                if not effect.stream:
                    await self._answer.aread()
                return self._answer
            case Read() if self._chunks is not None:
                return await anext(self._chunks, b"")
            case ReadAll() if self._answer is not None:
                return await self._answer.aread()
            case Sleep():
                return await asyncio.sleep(effect.seconds)

    async def _close(self) -> None:
        if self._answer is not None:
            await self._answer.aclose()
