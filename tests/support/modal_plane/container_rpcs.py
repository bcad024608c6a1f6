"""The RPCs that only containers make.

Sources: `modal/_runtime/container_io_manager.py` (hello, heartbeat with cancellations, input loop and its kill switch,
outputs), `modal/_runtime/task_lifecycle_manager.py` (checkpoint, restore-state.json, TaskResult) and
`modal/volume.py` (commit, reload).
"""

import json

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from .calls import Calls, Input
from .containers import Container, Containers
from .ids import Ids
from .mounted import MountedVolume
from .rpc import TASK_HEADER, Caller, fault

POLL_S = 5.0  # how long one FunctionGetInputs waits before it answers "nothing yet"


class ContainerRpcs:
    """Answers containers; the caller's task id comes with every request."""

    def __init__(self, ids: Ids, calls: Calls, containers: Containers) -> None:
        self._ids, self._calls, self._containers = ids, calls, containers

    async def ContainerHello(self, request: Empty, caller: Caller) -> Empty:  # noqa: N802
        self._containers.get(caller.task_id)
        return Empty()

    async def ContainerHeartbeat(  # noqa: N802
        self, request: api_pb2.ContainerHeartbeatRequest, caller: Caller
    ) -> api_pb2.ContainerHeartbeatResponse:
        container = self._containers.get(caller.task_id)
        if not container.to_cancel:
            return api_pb2.ContainerHeartbeatResponse()
        event = api_pb2.CancelInputEvent(input_ids=container.to_cancel)
        container.to_cancel = []
        return api_pb2.ContainerHeartbeatResponse(cancel_input_event=event)

    async def ContainerCheckpoint(self, request: api_pb2.ContainerCheckpointRequest, caller: Caller) -> Empty:  # noqa: N802
        # One process is both the container that is snapshotted and the one that is restored: a new task id, a new
        # connection, changed variables. Memory is not copied.
        container = self._containers.get(caller.task_id)
        if not self._containers.checkpointed(container):
            return Empty()
        container.restored_as = self._ids.new("ta")
        state = {
            "task_id": container.restored_as,
            "function_id": container.function.function_id,
            "override_headers": f"{TASK_HEADER}:{container.restored_as}",
        }
        path = container.home / "modal" / "restore-state.json"
        path.with_suffix(".tmp").write_text(json.dumps(state))
        path.with_suffix(".tmp").rename(path)
        return Empty()

    async def ContainerStop(  # noqa: N802
        self, request: api_pb2.ContainerStopRequest, caller: Caller
    ) -> api_pb2.ContainerStopResponse:
        """Graceful (`stop_fetching_inputs`): no more inputs, it ends when it asks for the next. Else an interrupt, now."""
        container = self._containers.get(request.task_id)
        if not request.graceful:
            self._containers.stop_soon(container)
            return api_pb2.ContainerStopResponse()
        container.draining = True
        await self._calls.notify()
        return api_pb2.ContainerStopResponse()

    async def TaskResult(self, request: api_pb2.TaskResultRequest, caller: Caller) -> Empty:  # noqa: N802
        self._containers.get(caller.task_id).start_failure = request.result
        return Empty()

    async def FunctionGetInputs(  # noqa: N802
        self, request: api_pb2.FunctionGetInputsRequest, caller: Caller
    ) -> api_pb2.FunctionGetInputsResponse:
        container = self._running(caller)
        container.asked_for_input = True
        function_id = container.function.function_id
        await self._calls.wait(lambda: bool(self._calls.pending(function_id)) or container.draining, POLL_S)
        if container.draining or not container.alive:
            return api_pb2.FunctionGetInputsResponse(inputs=[api_pb2.FunctionGetInputsItem(kill_switch=True)])
        items = [self._deliver(i, caller) for i in self._calls.pending(function_id)[:1]]
        return api_pb2.FunctionGetInputsResponse(inputs=items)

    def _running(self, caller: Caller) -> Container:
        try:
            return self._containers.get(caller.task_id)
        except GRPCError:
            raise fault(Status.PERMISSION_DENIED, "only a running container fetches inputs") from None

    def _deliver(self, an_input: Input, caller: Caller) -> api_pb2.FunctionGetInputsItem:
        self._calls.assign(an_input, caller.task_id)
        return api_pb2.FunctionGetInputsItem(
            input_id=an_input.input_id,
            input=an_input.payload,
            function_call_id=an_input.call_id,
            function_call_invocation_type=self._calls.calls[an_input.call_id].invocation_type,
        )

    async def FunctionPutOutputs(self, request: api_pb2.FunctionPutOutputsRequest, caller: Caller) -> Empty:  # noqa: N802
        by_id = {i.input_id: i for i in self._calls.inputs()}
        for item in request.outputs:
            an_input = by_id[item.input_id]
            # An output of an attempt that was given to another container meanwhile is dropped.
            if an_input.task_id == caller.task_id:
                await self._calls.finish(an_input, item.result, item.data_format)
        return Empty()

    async def FunctionGetDynamicConcurrency(  # noqa: N802
        self, request: api_pb2.FunctionGetDynamicConcurrencyRequest, caller: Caller
    ) -> api_pb2.FunctionGetDynamicConcurrencyResponse:
        return api_pb2.FunctionGetDynamicConcurrencyResponse(concurrency=request.max_concurrency)

    async def VolumeCommit(  # noqa: N802
        self, request: api_pb2.VolumeCommitRequest, caller: Caller
    ) -> api_pb2.VolumeCommitResponse:
        self._mounted(request.volume_id, caller)[1].commit()
        return api_pb2.VolumeCommitResponse(skip_reload=True)

    async def VolumeReload(  # noqa: N802
        self, request: api_pb2.VolumeReloadRequest, caller: Caller
    ) -> Empty:
        container, mounted = self._mounted(request.volume_id, caller)
        if mounted.open_files(container.pid):
            raise fault(Status.FAILED_PRECONDITION, "there are open files preventing the operation")
        mounted.reload()
        return Empty()

    def _mounted(self, volume_id: str, caller: Caller) -> tuple[Container, MountedVolume]:
        container = self._containers.get(caller.task_id)
        if volume_id not in container.volumes:
            raise fault(Status.NOT_FOUND, f"Volume {volume_id} is not mounted in this container")
        return container, container.volumes[volume_id]
