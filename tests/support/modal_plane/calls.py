"""Function calls: inputs wait, run in a container, and leave one output each.

Source: modal.com/docs/guide/retries and `modal/_functions.py`: a preempted input starts again under the same id and
does not count as a retry. No function here has a retry policy.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

from modal_proto import api_pb2

from .ids import Ids

Result = api_pb2.GenericResult
MAX_DEATHS = 8  # containers that may die under one input: MAX_INTERNAL_FAILURE_COUNT of modal/_functions.py
STREAM_POLL_S = 5.0


@dataclass
class Input:
    """One call of a function body."""

    input_id: str
    function_id: str
    call_id: str
    idx: int
    payload: api_pb2.FunctionInput
    task_id: str = ""
    started_at: float = 0.0
    cancelled: bool = False
    deliveries: list[str] = field(default_factory=list)
    output: api_pb2.FunctionGetOutputsItem | None = None

    @property
    def running(self) -> bool:
        """Whether a container works on it now."""
        return bool(self.task_id) and self.output is None

    @property
    def pending(self) -> bool:
        """Whether it waits for a container."""
        return not self.task_id and self.output is None


@dataclass
class Call:
    """A FunctionCall: what `spawn` returns and `get` polls."""

    call_id: str
    function_id: str
    invocation_type: "api_pb2.FunctionCallInvocationType.ValueType"
    inputs: list[Input] = field(default_factory=list)
    data_in: list[api_pb2.DataChunk] = field(default_factory=list)
    data_out: list[api_pb2.DataChunk] = field(default_factory=list)
    expired: bool = False

    @property
    def done(self) -> bool:
        """Whether every input has its output."""
        return all(i.output is not None for i in self.inputs)


class Calls:
    """The queue between callers and containers."""

    def __init__(self, ids: Ids) -> None:
        self._ids = ids
        self._changed = asyncio.Condition()
        self.calls: dict[str, Call] = {}
        self.on_pending: Callable[[str], None] = lambda _function_id: None

    def inputs(self, function_id: str = "") -> list[Input]:
        """Every input, or those of one function, oldest first."""
        everything = itertools.chain.from_iterable(c.inputs for c in list(self.calls.values()))
        return [i for i in everything if not function_id or i.function_id == function_id]

    def pending(self, function_id: str) -> list[Input]:
        """Inputs of a function that wait for a container, oldest first."""
        return [i for i in self.inputs(function_id) if i.pending]

    async def notify(self) -> None:
        """Wake everyone who waits for an input, an output or a data chunk."""
        async with self._changed:
            self._changed.notify_all()

    async def wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until the condition holds; False when time ran out."""
        try:
            async with asyncio.timeout(max(0.0, timeout_s)), self._changed:
                await self._changed.wait_for(condition)
        except TimeoutError:
            return condition()
        return True

    async def start(
        self,
        function_id: str,
        payloads: list[api_pb2.FunctionInput],
        invocation_type: "api_pb2.FunctionCallInvocationType.ValueType",
    ) -> Call:
        """Queue a new call."""
        call = Call(self._ids.new("fc"), function_id, invocation_type)
        self.calls[call.call_id] = call
        await self.enqueue(call, payloads)
        return call

    async def enqueue(self, call: Call, payloads: list[api_pb2.FunctionInput]) -> list[Input]:
        """Add inputs to a call."""
        first = len(call.inputs)
        new = [
            Input(self._ids.new("in"), call.function_id, call.call_id, first + n, payload)
            for n, payload in enumerate(payloads)
        ]
        call.inputs += new
        for an_input in new:
            self.on_pending(an_input.function_id)
        await self.notify()
        return new

    def assign(self, an_input: Input, task_id: str) -> None:
        """Give an input to a container."""
        an_input.task_id, an_input.started_at = task_id, time.monotonic()
        an_input.deliveries.append(task_id)

    async def finish(
        self,
        an_input: Input,
        result: api_pb2.GenericResult,
        data_format: "api_pb2.DataFormat.ValueType" = api_pb2.DATA_FORMAT_UNSPECIFIED,
    ) -> None:
        """Record an input's result; the first stands."""
        if an_input.output is not None:
            return
        an_input.output = api_pb2.FunctionGetOutputsItem(
            result=result,
            idx=an_input.idx,
            input_id=an_input.input_id,
            data_format=data_format,
            task_id=an_input.task_id,
            output_created_at=time.time(),
        )
        await self.notify()

    async def give_back(self, task_ids: set[str]) -> None:
        """A container is gone: what it worked on waits again under the same id, unless it was cancelled."""
        for an_input in [i for i in self.inputs() if i.running and i.task_id in task_ids]:
            if an_input.cancelled:
                await self.finish(an_input, Result(status=Result.GENERIC_STATUS_TERMINATED))
            elif len(an_input.deliveries) >= MAX_DEATHS:
                lost = Result(
                    status=Result.GENERIC_STATUS_INTERNAL_FAILURE, exception="containers kept dying"
                )
                await self.finish(an_input, lost)
            else:
                an_input.task_id = ""
                self.on_pending(an_input.function_id)
        await self.notify()

    async def fail_pending(self, function_id: str, result: api_pb2.GenericResult) -> None:
        """Containers of this function cannot start: its waiting inputs get that failure."""
        for an_input in [i for i in self.inputs(function_id) if i.output is None and not i.running]:
            await self.finish(an_input, result)

    async def put_data_in(self, call: Call, chunk: api_pb2.DataChunk) -> None:
        """Send one message (a request body, say) to a running input."""
        chunk.index = len(call.data_in) + 1
        call.data_in.append(chunk)
        await self.notify()

    async def stream(
        self, call: Call, chunks: list[api_pb2.DataChunk], sent: int
    ) -> AsyncGenerator[api_pb2.DataChunk, None]:
        """Yield chunks after index `sent` as they come, until the call is done."""
        while True:
            await self._wait_for_chunk(call, chunks, sent)
            for chunk in chunks[sent:]:
                yield chunk
                sent += 1
            if call.done and len(chunks) == sent:
                return

    async def _wait_for_chunk(self, call: Call, chunks: list[api_pb2.DataChunk], sent: int) -> None:
        await self.wait(lambda: len(chunks) > sent or call.done, STREAM_POLL_S)
