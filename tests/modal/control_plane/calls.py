"""Function calls: inputs wait, run in a container, and leave one output each.

Sources: `modal/_functions.py` (`_Invocation`: FunctionMap with one pipelined input, FunctionGetOutputs polling,
OutputExpiredError when nothing is left), `modal/_runtime/container_io_manager.py` (FunctionGetInputs,
FunctionPutOutputs, generator data streams) and modal.com/docs/guide/retries: a preempted input starts again under
the same id and does not count as a retry; a failed one is retried by the function's policy.
"""

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from google.protobuf.empty_pb2 import Empty
from grpclib import Status
from modal_proto import api_pb2

from .apps import Apps
from .ids import Ids
from .rpc import Caller, fault

Result = api_pb2.GenericResult
POLL_S = 5.0  # how long one FunctionGetInputs waits before it answers "nothing yet"
MAX_DEATHS = 3  # containers that may die under one input before it fails; Modal's own number is not published


@dataclass
class Input:
    """One call of a function body."""

    input_id: str
    function_id: str
    call_id: str
    idx: int
    payload: api_pb2.FunctionInput
    retry_count: int = 0
    ready_at: float = 0.0
    task_id: str = ""
    started_at: float = 0.0
    deliveries: list[str] = field(default_factory=list)
    output: api_pb2.FunctionGetOutputsItem | None = None

    @property
    def running(self) -> bool:
        """Whether a container works on it now."""
        return bool(self.task_id) and self.output is None

    @property
    def pending(self) -> bool:
        """Whether it waits for a container."""
        return not self.task_id and self.output is None and self.ready_at <= time.monotonic()


@dataclass
class Call:
    """A FunctionCall: what `spawn` returns and `get` polls."""

    call_id: str
    function_id: str
    invocation_type: int
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

    def __init__(self, ids: Ids, apps: Apps) -> None:
        self._ids = ids
        self._apps = apps
        self._changed = asyncio.Condition()
        self.calls: dict[str, Call] = {}
        self.live_containers: Callable[[str], int] = lambda _function_id: 0
        self.container_function: Callable[[str], str | None] = lambda _task_id: None
        self.cancel_running: Callable[[Input, bool], None] = lambda _input, _terminate: None
        self.is_draining: Callable[[str], bool] = lambda _task_id: False
        self.on_pending: Callable[[str], None] = lambda _function_id: None

    def inputs(self, function_id: str = "") -> list[Input]:
        """Every input, or those of one function, oldest first."""
        everything = itertools.chain.from_iterable(c.inputs for c in self.calls.values())
        return [i for i in everything if not function_id or i.function_id == function_id]

    async def notify(self) -> None:
        """Wake everyone who waits for an input, an output or a data chunk."""
        async with self._changed:
            self._changed.notify_all()

    async def wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until the condition holds; False when time ran out."""
        try:
            async with self._changed, asyncio.timeout(max(0.0, timeout_s)):
                await self._changed.wait_for(condition)
        except TimeoutError:
            return condition()
        return True

    async def start(
        self, function_id: str, payloads: list[api_pb2.FunctionInput], invocation_type: int
    ) -> Call:
        """Queue a new call."""
        call = Call(self._ids.new("fc"), function_id, invocation_type)
        self.calls[call.call_id] = call
        await self._enqueue(call, payloads)
        return call

    async def _enqueue(self, call: Call, payloads: list[api_pb2.FunctionInput]) -> list[Input]:
        first = len(call.inputs)
        new = [
            Input(self._ids.new("in"), call.function_id, call.call_id, first + n, payload)
            for n, payload in enumerate(payloads)
        ]
        call.inputs += new
        if new:
            self.on_pending(call.function_id)
        await self.notify()
        return new

    async def FunctionMap(self, request: api_pb2.FunctionMapRequest, caller: Caller):  # noqa: N802
        if request.function_id not in self._apps.functions:
            raise fault(Status.NOT_FOUND, f"Function {request.function_id} not found")
        payloads = [item.input for item in request.pipelined_inputs]
        call = await self.start(request.function_id, payloads, request.function_call_invocation_type)
        return api_pb2.FunctionMapResponse(
            function_call_id=call.call_id,
            function_call_jwt=call.call_id,
            pipelined_inputs=_receipts(call.inputs),
            retry_policy=self._apps.functions[request.function_id].definition.retry_policy,
            max_inputs_outstanding=1000,
        )

    async def FunctionPutInputs(self, request: api_pb2.FunctionPutInputsRequest, caller: Caller):  # noqa: N802
        new = await self._enqueue(
            self._call(request.function_call_id), [item.input for item in request.inputs]
        )
        return api_pb2.FunctionPutInputsResponse(inputs=_receipts(new))

    async def FunctionFinishInputs(self, request: api_pb2.FunctionFinishInputsRequest, caller: Caller):  # noqa: N802
        return Empty()

    def _call(self, call_id: str) -> Call:
        if call_id not in self.calls:
            raise fault(Status.NOT_FOUND, f"Function call {call_id} not found")
        return self.calls[call_id]

    async def FunctionGetOutputs(self, request: api_pb2.FunctionGetOutputsRequest, caller: Caller):  # noqa: N802
        call = self._call(request.function_call_id)
        bounded = request.HasField("start_idx")
        wanted = range(request.start_idx, request.end_idx + 1) if bounded else None

        def outputs() -> list[api_pb2.FunctionGetOutputsItem]:
            found = [i.output for i in call.inputs if i.output is not None and not call.expired]
            return [o for o in found if wanted is None or o.idx in wanted]

        await self.wait(lambda: bool(outputs()) or call.expired, request.timeout)
        items = outputs()
        unfinished = 0 if call.expired else sum(i.output is None for i in call.inputs)
        return api_pb2.FunctionGetOutputsResponse(
            outputs=items, idxs=[o.idx for o in items], last_entry_id="1-0", num_unfinished_inputs=unfinished
        )

    async def FunctionCallFromId(self, request: api_pb2.FunctionCallFromIdRequest, caller: Caller):  # noqa: N802
        call = self._call(request.function_call_id)
        app_id = self._apps.functions[call.function_id].app_id
        return api_pb2.FunctionCallFromIdResponse(
            function_call_id=call.call_id,
            num_inputs=len(call.inputs),
            metadata=api_pb2.FunctionCallHandleMetadata(app_id=app_id, function_id=call.function_id),
        )

    async def FunctionCallCancel(self, request: api_pb2.FunctionCallCancelRequest, caller: Caller):  # noqa: N802
        for an_input in self._call(request.function_call_id).inputs:
            if an_input.running:
                self.cancel_running(an_input, request.terminate_containers)
            elif an_input.output is None:
                await self.finish(an_input, Result(status=Result.GENERIC_STATUS_TERMINATED))
        return Empty()

    async def FunctionGetCurrentStats(self, request, caller: Caller):  # noqa: N802
        inputs = self.inputs(request.function_id)
        containers = self.live_containers(request.function_id)
        running = sum(i.running for i in inputs)
        slots = containers * (self._apps.functions[request.function_id].definition.max_concurrent_inputs or 1)
        return api_pb2.FunctionStats(
            backlog=sum(i.pending for i in inputs),
            num_total_tasks=containers,
            num_running_inputs=running,
            input_headroom=max(0, slots - running),
        )

    async def FunctionGetInputs(self, request: api_pb2.FunctionGetInputsRequest, caller: Caller):  # noqa: N802
        function_id = self.container_function(caller.task_id)
        if function_id is None:
            raise fault(
                Status.PERMISSION_DENIED, f"{caller.task_id or 'a client'} is not a running container"
            )

        def waiting() -> list[Input]:
            return [i for i in self.inputs(function_id) if i.pending]

        await self.wait(lambda: bool(waiting()) or self.is_draining(caller.task_id), POLL_S)
        if self.is_draining(caller.task_id) or self.container_function(caller.task_id) is None:
            return api_pb2.FunctionGetInputsResponse(inputs=[api_pb2.FunctionGetInputsItem(kill_switch=True)])
        return api_pb2.FunctionGetInputsResponse(inputs=[self._deliver(i, caller) for i in waiting()[:1]])

    def _deliver(self, an_input: Input, caller: Caller) -> api_pb2.FunctionGetInputsItem:
        an_input.task_id, an_input.started_at = caller.task_id, time.monotonic()
        an_input.deliveries.append(caller.task_id)
        return api_pb2.FunctionGetInputsItem(
            input_id=an_input.input_id,
            input=an_input.payload,
            function_call_id=an_input.call_id,
            retry_count=an_input.retry_count,
            function_call_invocation_type=self.calls[an_input.call_id].invocation_type,
        )

    async def FunctionPutOutputs(self, request: api_pb2.FunctionPutOutputsRequest, caller: Caller):  # noqa: N802
        by_id = {i.input_id: i for i in self.inputs()}
        for item in request.outputs:
            an_input = by_id[item.input_id]
            # An output of an attempt that was given to another container meanwhile is dropped.
            if an_input.task_id == caller.task_id:
                await self.finish(an_input, item.result, item.data_format)
        return Empty()

    async def finish(self, an_input: Input, result: api_pb2.GenericResult, data_format: int = 0) -> None:
        """Record the result of an attempt, or schedule the next attempt that the retry policy allows."""
        if an_input.output is not None:
            return
        policy = self._apps.functions[an_input.function_id].definition.retry_policy
        failed = result.status in (Result.GENERIC_STATUS_FAILURE, Result.GENERIC_STATUS_TIMEOUT)
        if failed and an_input.retry_count < policy.retries:
            delay_s = policy.initial_delay_ms / 1000 * policy.backoff_coefficient**an_input.retry_count
            an_input.retry_count += 1
            an_input.task_id, an_input.ready_at = "", time.monotonic() + delay_s
            asyncio.get_running_loop().call_later(delay_s + 0.01, self._wake, an_input.function_id)
            return
        an_input.output = api_pb2.FunctionGetOutputsItem(
            result=result,
            idx=an_input.idx,
            input_id=an_input.input_id,
            data_format=data_format,
            task_id=an_input.task_id,
            output_created_at=time.time(),
            retry_count=an_input.retry_count,
        )
        await self.notify()

    def _wake(self, function_id: str) -> None:
        self.on_pending(function_id)
        self._waker = asyncio.get_running_loop().create_task(self.notify())

    async def give_back(self, task_ids: set[str]) -> None:
        """A container is gone: what it worked on waits again, under the same input id."""
        for an_input in [i for i in self.inputs() if i.running and i.task_id in task_ids]:
            if len(an_input.deliveries) >= MAX_DEATHS:
                lost = Result(
                    status=Result.GENERIC_STATUS_INTERNAL_FAILURE, exception="containers kept dying"
                )
                await self.finish(an_input, lost)
            else:
                an_input.task_id = ""
                self.on_pending(an_input.function_id)
        await self.notify()

    async def fail_pending(self, function_id: str, result: api_pb2.GenericResult) -> None:
        """Containers of this function cannot start: its waiting inputs get the container's failure."""
        for an_input in [i for i in self.inputs(function_id) if i.output is None and not i.running]:
            an_input.retry_count = 1 << 30
            await self.finish(an_input, result)

    async def FunctionCallPutDataOut(self, request: api_pb2.FunctionCallPutDataRequest, caller: Caller):  # noqa: N802
        self._call(request.function_call_id).data_out.extend(request.data_chunks)
        await self.notify()
        return Empty()

    async def put_data_in(self, call: Call, chunk: api_pb2.DataChunk) -> None:
        """Send one message (a request body, say) to a running input."""
        chunk.index = len(call.data_in) + 1
        call.data_in.append(chunk)
        await self.notify()

    async def FunctionCallGetDataIn(self, request: api_pb2.FunctionCallGetDataRequest, caller: Caller):  # noqa: N802
        call = self._call(request.function_call_id)
        async for chunk in self.stream(call, call.data_in, request.last_index):
            yield chunk

    async def FunctionCallGetDataOut(self, request: api_pb2.FunctionCallGetDataRequest, caller: Caller):  # noqa: N802
        call = self._call(request.function_call_id)
        async for chunk in self.stream(call, call.data_out, request.last_index):
            yield chunk

    async def stream(self, call: Call, chunks: list[api_pb2.DataChunk], sent: int):
        """Yield chunks after index `sent` as they come, until the call is done."""
        while True:
            await self.wait(lambda: len(chunks) > sent or call.done, POLL_S)
            for chunk in chunks[sent:]:
                yield chunk
                sent += 1
            if call.done and len(chunks) == sent:
                return


def _receipts(inputs: list[Input]) -> list[api_pb2.FunctionPutInputsResponseItem]:
    return [
        api_pb2.FunctionPutInputsResponseItem(idx=i.idx, input_id=i.input_id, input_jwt=i.input_id)
        for i in inputs
    ]
