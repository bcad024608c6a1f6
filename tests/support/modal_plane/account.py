"""Prices and the bill of the workspace, and the records of its containers: what `prove` asks for.

Sources: `modal/_workspace.py` (rates, report: a plan without it is refused), `modal/cli/container.py` (TaskGetInfo before
ContainerStop) and `modal/_functions.py` (`stats`). Which containers Modal counts as errors is not documented: here those
that crashed.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import datetime

from google.protobuf.empty_pb2 import Empty
from grpclib import Status
from modal_proto import api_pb2

from .containers import Containers
from .rpc import Caller, fault


@dataclass
class BilledObject:
    """One object's cost in the hour that begins at `hour`."""

    description: str
    hour: datetime
    cost_by_resource: dict[str, str]
    tags: dict[str, str]


@dataclass
class Account:
    """Attributes that tests set: `rates`, `bill`, `has_reports` (what a plan includes)."""

    containers: Containers
    rates: dict[str, str] = field(default_factory=dict)
    bill: list[BilledObject] = field(default_factory=list)
    has_reports: bool = True

    async def WorkspaceNameLookup(  # noqa: N802
        self, request: Empty, caller: Caller
    ) -> api_pb2.WorkspaceNameLookupResponse:
        return api_pb2.WorkspaceNameLookupResponse(workspace_name="test", username="test")

    async def WorkspaceBillingRates(  # noqa: N802
        self, request: api_pb2.WorkspaceBillingRatesRequest, caller: Caller
    ) -> api_pb2.WorkspaceBillingRatesResponse:
        return api_pb2.WorkspaceBillingRatesResponse(rates=self.rates)

    async def WorkspaceBillingReport(  # noqa: N802
        self, request: api_pb2.WorkspaceBillingReportRequest, caller: Caller
    ) -> AsyncGenerator[api_pb2.WorkspaceBillingReportItem, None]:
        if not self.has_reports:
            raise fault(Status.PERMISSION_DENIED, "billing reports need the plan Team")
        start, end = (each.ToDatetime() for each in (request.start_timestamp, request.end_timestamp))
        for billed in self.bill:
            if not start <= billed.hour.replace(tzinfo=None) < end:
                continue
            item = api_pb2.WorkspaceBillingReportItem(
                object_id="ap-1",
                description=billed.description,
                environment_name="main",
                cost=str(sum(map(float, billed.cost_by_resource.values()))),
                cost_by_resource=billed.cost_by_resource,
                tags={name: billed.tags[name] for name in request.tag_names if name in billed.tags},
            )
            item.interval.FromDatetime(billed.hour)
            yield item

    async def TaskGetInfo(  # noqa: N802
        self, request: api_pb2.TaskGetInfoRequest, caller: Caller
    ) -> api_pb2.TaskGetInfoResponse:
        container = self.containers.get(request.task_id)
        info = api_pb2.TaskInfo(
            id=request.task_id,
            enqueued_at=container.asked_at,
            started_at=container.began_at,
            finished_at=container.ended_at,
            snapshot_behavior=container.behavior,
        )
        return api_pb2.TaskGetInfoResponse(app_id=container.function.app_id, info=info)

    async def FunctionGetTimeRangeStats(  # noqa: N802
        self, request: api_pb2.FunctionGetTimeRangeStatsRequest, caller: Caller
    ) -> api_pb2.FunctionGetTimeRangeStatsResponse:
        since, until = request.since.ToNanoseconds() / 1e9, request.until.ToNanoseconds() / 1e9
        mine = [c for c in self.containers.all.values() if c.function.function_id == request.function_id]
        return api_pb2.FunctionGetTimeRangeStatsResponse(
            container_started_count=sum(since <= c.began_at < until for c in mine),
            container_error_count=sum(c.crashed and since <= c.ended_at < until for c in mine),
        )
