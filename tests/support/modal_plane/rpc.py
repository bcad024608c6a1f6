"""Turn plain async methods into the gRPC service that the `modal` client speaks.

A service is an object whose public methods carry RPC names: a coroutine answers a unary call, an
async generator answers a stream. The path table comes from the client's own generated
`modal_proto.api_grpc.ModalClientBase`. An RPC nobody answers fails with UNIMPLEMENTED and its name,
so a client upgrade that needs a new call says so.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from grpclib import GRPCError, Status
from modal_proto.api_grpc import ModalClientBase

TASK_HEADER = "x-control-plane-task"


@dataclass(frozen=True)
class Caller:
    """Who calls: a container (its task id) or, when `task_id` is empty, a command line."""

    task_id: str = ""


def fault(status: Status, message: str) -> GRPCError:
    """The error that the real server would answer; the client maps it in `modal/_grpc_client.py`."""
    return GRPCError(status, message)


@dataclass
class Traffic:
    """Every RPC so far, and the faults that a test ordered for the next ones."""

    token_id: str
    log: list[str] = field(default_factory=list)
    faults: dict[str, list[GRPCError]] = field(default_factory=dict)

    def admit(self, name: str, metadata: Any) -> Caller:
        """Record a request, raise what was ordered for it, and tell who calls."""
        self.log.append(name)
        if self.faults.get(name):
            raise self.faults[name].pop(0)
        return _authenticate(metadata, self.token_id)


def build_servicer(services: Sequence[object], traffic: Traffic) -> Any:
    """Return a grpclib servicer that sends every RPC to the service which defines it."""
    members: dict[str, Callable[..., Any]] = {}
    for name in sorted(ModalClientBase.__abstractmethods__):
        handler = next((getattr(s, name) for s in services if hasattr(s, name)), None)
        members[name] = _serve(name, handler, traffic)
    return type("Servicer", (ModalClientBase,), members)()


def _serve(name: str, handler: Callable[..., Any] | None, traffic: Traffic) -> Any:
    async def serve(_servicer: Any, stream: Any) -> None:
        request = await stream.recv_message()
        caller = traffic.admit(name, stream.metadata)
        if handler is None:
            raise fault(Status.UNIMPLEMENTED, f"the test control plane does not implement {name}")
        if inspect.isasyncgenfunction(handler):
            async for response in handler(request, caller):
                await stream.send_message(response)
        else:
            await stream.send_message(await handler(request, caller))

    return serve


def _authenticate(metadata: Any, token_id: str) -> Caller:
    task_id = metadata.get(TASK_HEADER, "")
    if not task_id and metadata.get("x-modal-token-id") != token_id:
        raise fault(Status.UNAUTHENTICATED, "Token missing or unknown")
    return Caller(task_id)
