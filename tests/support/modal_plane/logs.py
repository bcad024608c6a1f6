"""Container output for `modal run`: AppGetLogs streams it until the app has stopped (`modal/_output/pty.py`)."""

import asyncio
import time
from collections.abc import AsyncGenerator

from modal_proto import api_pb2

from .apps import Apps
from .containers import Containers
from .rpc import Caller

POLL_S = 0.1


class Logs:
    """Reads the log files of an app's containers."""

    def __init__(self, apps: Apps, containers: Containers) -> None:
        self._apps = apps
        self._containers = containers

    async def AppGetLogs(  # noqa: N802
        self, request: api_pb2.AppGetLogsRequest, caller: Caller
    ) -> AsyncGenerator[api_pb2.TaskLogsBatch, None]:
        sent: dict[str, int] = {}
        deadline = time.monotonic() + (request.timeout or 55)
        while time.monotonic() < deadline:
            stopped = self._apps.apps[request.app_id].state == api_pb2.APP_STATE_STOPPED
            for container in list(self._containers.all.values()):
                text = container.log[sent.get(container.task_id, 0) :]
                if container.function.app_id == request.app_id and text:
                    sent[container.task_id] = sent.get(container.task_id, 0) + len(text)
                    yield _batch(container.task_id, text)
            if stopped:
                yield api_pb2.TaskLogsBatch(app_done=True, entry_id="done")
                return
            await asyncio.sleep(POLL_S)


def _batch(task_id: str, text: str) -> api_pb2.TaskLogsBatch:
    item = api_pb2.TaskLogs(data=text, timestamp=time.time(), file_descriptor=api_pb2.FILE_DESCRIPTOR_STDOUT)
    return api_pb2.TaskLogsBatch(task_id=task_id, entry_id=f"{time.monotonic_ns()}-0", items=[item])
