"""Containers: the client's real entry point as a process, started on demand, watched, killed, restarted.

A container that dies gives its input back; one that fails before its first input fails the inputs that wait, as
`modal/_utils/function_utils.py` (`_process_result`) describes for crash loops.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grpclib import Status
from modal_proto import api_pb2

from .apps import Apps
from .calls import Calls, Input, Result
from .functions import FunctionRecord
from .ids import Ids
from .launch import Launcher
from .mounted import MountedVolume
from .rpc import fault

LOG_TAIL_CHARS = 4000
STOP_GRACE_S = 30.0  # for exit hooks
DEFAULT_MAX_CONTAINERS = 2  # for functions that set no limit; keeps a test machine alive


@dataclass
class Container:
    """One started container."""

    task_id: str
    function: FunctionRecord
    home: Path
    volumes: dict[str, MountedVolume]
    process: subprocess.Popen[bytes]
    missing_packages: list[str] = field(default_factory=list)
    started_at: float = field(default_factory=time.monotonic)
    restored_as: str = ""
    draining: bool = False
    asked_for_input: bool = False
    start_failure: api_pb2.GenericResult | None = None
    to_cancel: list[str] = field(default_factory=list)
    behavior: "api_pb2.TaskSnapshotBehavior.ValueType" = api_pb2.TASK_SNAPSHOT_BEHAVIOR_NONE
    asked_at: float = 0.0
    began_at: float = field(default_factory=time.time)
    ended_at: float = 0.0
    crashed: bool = False

    @property
    def pid(self) -> int:
        """Process id on this machine; the same inside."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop its processes, so that its job cannot end meanwhile, however fast or busy the machine is."""
        os.killpg(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self.pid, signal.SIGCONT)

    @property
    def names(self) -> set[str]:
        """Its task id, and the one it got by its restore."""
        return {self.task_id, self.restored_as} - {""}

    @property
    def log(self) -> str:
        """Everything it printed."""
        path = self.home / "log.txt"
        return path.read_text(errors="replace") if path.exists() else ""


class Containers:
    """Every container of this control plane."""

    def __init__(self, ids: Ids, apps: Apps, calls: Calls, launcher: Launcher) -> None:
        self._ids, self._apps, self._calls, self._launcher = ids, apps, calls, launcher
        self.all: dict[str, Container] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting: Counter[str] = Counter()
        self.crash_restores = 0
        """So many of the next restores end by a segmentation fault; the start after each uses no snapshot."""
        self._snapshots: set[str] = set()
        self._without_snapshot: set[str] = set()
        self.home = Path()
        calls.on_pending = self._scale_up
        apps.on_app_stopped = self._stop_app

    def get(self, task_id: str) -> Container:
        """The container with this task id, before or after its restore."""
        for container in self.all.values():
            if task_id in container.names:
                return container
        raise fault(Status.NOT_FOUND, f"No container {task_id!r}")

    def live(self, function_id: str) -> list[Container]:
        """Running containers of one function."""
        return [c for c in self.all.values() if c.function.function_id == function_id and c.alive]

    def run_python(self, function_id: str, *argv: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
        """Run `python <argv>` to its end on a container's disk, without the entry point."""
        home = self.home / self._ids.new("py")
        prepared = self._launcher.prepare(self._apps.functions[function_id], "ta-none", home, argv)
        return subprocess.run(prepared.command, capture_output=True, text=True, timeout=timeout_s)

    async def start(self, function_id: str) -> Container:
        """Start one container of a function."""
        function, asked_at = self._apps.functions[function_id], time.time()
        task_id = self._ids.new("ta")
        home = self.home / task_id
        wants_snapshot = self._launcher.settings.snapshots and function.definition.is_checkpointing_function
        if function_id in self._without_snapshot:
            wants_snapshot = False
            self._without_snapshot.discard(function_id)
        checkpoint = self._ids.new("ch") if wants_snapshot else ""
        prepared = await asyncio.to_thread(
            self._launcher.prepare, function, task_id, home, checkpoint_id=checkpoint
        )
        process = _spawn(prepared.command, home / "log.txt")
        container = Container(task_id, function, home, prepared.volumes, process, prepared.missing_packages)
        container.asked_at = asked_at
        if wants_snapshot:
            made = function_id in self._snapshots
            container.behavior = (
                api_pb2.TASK_SNAPSHOT_BEHAVIOR_RESTORE if made else api_pb2.TASK_SNAPSHOT_BEHAVIOR_SNAPSHOT
            )
        self.all[task_id] = container
        self._background(self._watch(container))
        return container

    async def _watch(self, container: Container) -> None:
        while container.alive:
            self._enforce_startup_timeout(container)
            await self._enforce_timeout(container)
            await asyncio.sleep(0.05)
        container.ended_at = time.time()
        if not container.asked_for_input and not container.draining and not container.crashed:
            await self._report_failed_start(container)
        await self._calls.give_back(container.names)
        self._scale_up(container.function.function_id)

    def _enforce_startup_timeout(self, container: Container) -> None:
        limit_s = container.function.definition.startup_timeout_secs
        if limit_s and not container.asked_for_input and time.monotonic() - container.started_at > limit_s:
            text = f"container did not start within its startup timeout of {limit_s}s"
            container.start_failure = Result(status=Result.GENERIC_STATUS_TIMEOUT, exception=text)
            self.kill(container)

    async def _enforce_timeout(self, container: Container) -> None:
        limit_s = container.function.definition.timeout_secs
        for an_input in self._calls.inputs(container.function.function_id):
            mine = an_input.running and an_input.task_id in container.names
            if mine and limit_s and time.monotonic() - an_input.started_at > limit_s:
                text = f"Task's current input {an_input.input_id} hit its timeout of {limit_s}s"
                self.kill(container)
                await self._calls.finish(
                    an_input, Result(status=Result.GENERIC_STATUS_TIMEOUT, exception=text)
                )

    async def _report_failed_start(self, container: Container) -> None:
        if container.start_failure is None:
            text = f"container exited before its first input:\n{container.log[-LOG_TAIL_CHARS:]}"
            container.start_failure = Result(status=Result.GENERIC_STATUS_FAILURE, exception=text)
        await self._calls.fail_pending(container.function.function_id, container.start_failure)

    def _scale_up(self, function_id: str) -> None:
        if not self._launcher.settings.autoscale:
            return
        definition = self._apps.functions[function_id].definition
        work = sum(i.output is None for i in self._calls.inputs(function_id))
        have = len([c for c in self.live(function_id) if not c.draining]) + self._starting[function_id]
        limit = definition.autoscaler_settings.max_containers or DEFAULT_MAX_CONTAINERS
        if have < limit and have * (definition.max_concurrent_inputs or 1) < work:
            self._starting[function_id] += 1
            self._background(self._start_for_inputs(function_id))

    async def _start_for_inputs(self, function_id: str) -> None:
        try:
            await self.start(function_id)
        except Exception as error:
            text = f"the control plane could not start a container: {error!r}"
            failure = Result(status=Result.GENERIC_STATUS_INIT_FAILURE, exception=text)
            await self._calls.fail_pending(function_id, failure)
            raise
        finally:
            self._starting[function_id] -= 1

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def checkpointed(self, container: Container) -> bool:
        """Note a container's snapshot; return False if its restore crashes, as ordered."""
        function_id = container.function.function_id
        self._snapshots.add(function_id)
        restores = container.behavior == api_pb2.TASK_SNAPSHOT_BEHAVIOR_RESTORE
        if not restores or not self.crash_restores:
            return True
        self.crash_restores -= 1
        container.crashed = True
        self._without_snapshot.add(function_id)
        os.killpg(container.pid, signal.SIGSEGV)
        return False

    def stop_soon(self, container: Container) -> None:
        """`modal container stop`: an interrupt; running inputs are rescheduled."""
        self._background(self.interrupt(container, STOP_GRACE_S))

    def kill(self, container: Container) -> None:
        """End the process at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(container.pid, signal.SIGKILL)
        container.process.wait()

    async def interrupt(self, container: Container, grace_s: float) -> None:
        """Preempt: the interrupt that the worker sends, up to `grace_s` for exit hooks, then the end."""
        container.draining = True
        os.kill(container.pid, signal.SIGINT)
        await self._end(container, grace_s)

    async def stop(self, container: Container, grace_s: float = 30.0) -> int:
        """Ask it to finish (kill switch), wait, and return the exit status."""
        container.draining = True
        await self._calls.notify()
        await self._end(container, grace_s)
        return container.process.returncode

    async def _end(self, container: Container, grace_s: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(container.process.wait, grace_s)
        self.kill(container)

    def cancel_input(self, an_input: Input, terminate: bool) -> None:
        """Ask the container to cancel an input with its next heartbeat, or end the container."""
        container = self.get(an_input.task_id)
        if terminate:
            self.kill(container)
        else:
            container.to_cancel.append(an_input.input_id)

    async def close(self) -> None:
        """Kill every container and stop watching."""
        self._launcher.settings.autoscale = False
        for container in self.all.values():
            container.draining = True
            self.kill(container)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        shutil.rmtree(self.home, ignore_errors=True)

    def _stop_app(self, app_id: str) -> None:
        for container in self.all.values():
            if container.function.app_id == app_id:
                container.draining = True
                self.kill(container)


def _spawn(command: list[str], log_path: Path) -> subprocess.Popen[bytes]:
    with log_path.open("wb") as log:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
