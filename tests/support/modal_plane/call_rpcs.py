"""The RPCs of callers: spawn, poll, cancel, look up, count.

Source: `modal/_functions.py` (`_Invocation`: FunctionMap with one pipelined input, FunctionGetOutputs polling, expired
when there is neither an output nor an unfinished input; `_FunctionCall.cancel`; `get_current_stats`).
"""

from collections.abc import AsyncGenerator

from google.protobuf.empty_pb2 import Empty
from grpclib import Status
from modal_proto import api_pb2

from .apps import Apps
from .calls import Call, Calls, Input, Result
from .containers import Containers
from .rpc import Caller, fault

MAX_INPUTS_OUTSTANDING = 1000


class CallRpcs:
    """Answers whoever calls functions: a command line, a test, or another container."""

    def __init__(self, apps: Apps, calls: Calls, containers: Containers) -> None:
        self._apps, self._calls, self._containers = apps, calls, containers

    async def FunctionMap(  # noqa: N802
        self, request: api_pb2.FunctionMapRequest, caller: Caller
    ) -> api_pb2.FunctionMapResponse:
        if request.function_id not in self._apps.functions:
            raise fault(Status.NOT_FOUND, f"Function {request.function_id} not found")
        payloads = [item.input for item in request.pipelined_inputs]
        call = await self._calls.start(request.function_id, payloads, request.function_call_invocation_type)
        return api_pb2.FunctionMapResponse(
            function_call_id=call.call_id,
            function_call_jwt=call.call_id,
            pipelined_inputs=_receipts(call.inputs),
            retry_policy=self._apps.functions[request.function_id].definition.retry_policy,
            max_inputs_outstanding=MAX_INPUTS_OUTSTANDING,
        )

    def _call(self, call_id: str) -> Call:
        if call_id not in self._calls.calls:
            raise fault(Status.NOT_FOUND, f"Function call {call_id} not found")
        return self._calls.calls[call_id]

    async def FunctionGetOutputs(  # noqa: N802
        self, request: api_pb2.FunctionGetOutputsRequest, caller: Caller
    ) -> api_pb2.FunctionGetOutputsResponse:
        call = self._call(request.function_call_id)
        wanted = range(request.start_idx, request.end_idx + 1) if request.HasField("start_idx") else None

        def outputs() -> list[api_pb2.FunctionGetOutputsItem]:
            found = [i.output for i in call.inputs if i.output is not None and not call.expired]
            return [o for o in found if wanted is None or o.idx in wanted]

        await self._calls.wait(lambda: bool(outputs()) or call.expired, request.timeout)
        items = outputs()
        unfinished = 0 if call.expired else sum(i.output is None for i in call.inputs)
        return api_pb2.FunctionGetOutputsResponse(
            outputs=items, idxs=[o.idx for o in items], last_entry_id="1-0", num_unfinished_inputs=unfinished
        )

    async def FunctionCallCancel(self, request: api_pb2.FunctionCallCancelRequest, caller: Caller) -> Empty:  # noqa: N802
        for an_input in self._call(request.function_call_id).inputs:
            if an_input.output is not None:
                continue
            an_input.cancelled = True
            if an_input.running:
                self._containers.cancel_input(an_input, request.terminate_containers)
            else:
                await self._calls.finish(an_input, Result(status=Result.GENERIC_STATUS_TERMINATED))
        return Empty()

    async def FunctionGetCurrentStats(  # noqa: N802
        self, request: api_pb2.FunctionGetCurrentStatsRequest, caller: Caller
    ) -> api_pb2.FunctionStats:
        containers = len(self._containers.live(request.function_id))
        running = sum(i.running for i in self._calls.inputs(request.function_id))
        slots = containers * (self._apps.functions[request.function_id].definition.max_concurrent_inputs or 1)
        return api_pb2.FunctionStats(
            backlog=len(self._calls.pending(request.function_id)),
            num_total_tasks=containers,
            num_running_inputs=running,
            input_headroom=max(0, slots - running),
        )

    async def FunctionCallPutDataOut(  # noqa: N802
        self, request: api_pb2.FunctionCallPutDataRequest, caller: Caller
    ) -> Empty:
        self._call(request.function_call_id).data_out.extend(request.data_chunks)
        await self._calls.notify()
        return Empty()

    async def FunctionCallGetDataIn(  # noqa: N802
        self, request: api_pb2.FunctionCallGetDataRequest, caller: Caller
    ) -> AsyncGenerator[api_pb2.DataChunk, None]:
        call = self._call(request.function_call_id)
        async for chunk in self._calls.stream(call, call.data_in, request.last_index):
            yield chunk


def _receipts(inputs: list[Input]) -> list[api_pb2.FunctionPutInputsResponseItem]:
    return [
        api_pb2.FunctionPutInputsResponseItem(idx=i.idx, input_id=i.input_id, input_jwt=i.input_id)
        for i in inputs
    ]
