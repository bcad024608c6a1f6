"""Containers: the client's real entry point, started as a process on only the uploaded files.

Sources: `modal/_container_entrypoint.py` (arguments file, environment), `modal/_runtime/task_lifecycle_manager.py`
(ContainerCheckpoint, restore-state.json, TaskResult), `modal/_runtime/container_io_manager.py` (heartbeat carries
cancellations, kill switch ends the input loop), `modal/volume.py` (VolumeCommit, VolumeReload).
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.empty_pb2 import Empty
from grpclib import Status
from modal_proto import api_pb2

from .apps import Apps, FunctionRecord
from .calls import Calls, Input, Result
from .filesystem import ContainerFilesystem
from .ids import Ids
from .images import ImageChain, Images
from .mounted import MountedVolume
from .mounts import Mounts
from .rpc import TASK_HEADER, Caller, fault
from .secrets import Secrets
from .volumes import Volumes

SNAPSHOT_RESTORE_FAILED = 222  # modal/_runtime/gpu_memory_snapshot.py
LOG_TAIL_CHARS = 4000


@dataclass
class Container:
    """One started container."""

    task_id: str
    function: FunctionRecord
    home: Path
    volumes: dict[str, MountedVolume]
    missing_packages: list[str] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None
    aliases: set[str] = field(default_factory=set)
    draining: bool = False
    snapshotted: bool = False
    asked_for_input: bool = False
    start_failure: api_pb2.GenericResult | None = None
    to_cancel: list[str] = field(default_factory=list)

    @property
    def pid(self) -> int:
        """Process id on this machine; the same inside."""
        assert self.process is not None
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process is not None and self.process.poll() is None

    @property
    def log(self) -> str:
        """Everything it printed."""
        path = self.home / "log.txt"
        return path.read_text(errors="replace") if path.exists() else ""


class Containers:
    """Starts, watches and stops containers, and answers the RPCs that only containers make."""

    def __init__(
        self,
        ids: Ids,
        apps: Apps,
        calls: Calls,
        images: Images,
        mounts: Mounts,
        secrets: Secrets,
        volumes: Volumes,
    ) -> None:
        self._ids, self._apps, self._calls = ids, apps, calls
        self._images, self._mounts, self._secrets, self._volumes = images, mounts, secrets, volumes
        self.all: dict[str, Container] = {}
        self._watchers: set[asyncio.Task[None]] = set()
        self._starting: Counter[str] = Counter()
        self.home = Path()
        self.server_url = ""
        self.autoscale = True
        self.snapshots = True
        self.only_image_packages = True
        self.extra_env: dict[str, str] = {}
        calls.live_containers = lambda function_id: len(self.live(function_id))
        calls.container_function = self._function_of
        calls.is_draining = lambda task_id: self.get(task_id).draining
        calls.cancel_running = self._cancel_input
        calls.on_pending = self._scale_up
        apps.on_app_stopped = self._stop_app

    def get(self, task_id: str) -> Container:
        """The container with this task id, before or after its restore."""
        for container in self.all.values():
            if task_id == container.task_id or task_id in container.aliases:
                return container
        raise fault(Status.NOT_FOUND, f"No container {task_id!r}")

    def live(self, function_id: str) -> list[Container]:
        """Running containers of one function."""
        return [c for c in self.all.values() if c.function.function_id == function_id and c.alive]

    def files(self, definition: api_pb2.Function) -> dict[str, bytes]:
        """Every uploaded file of a function: its image's copied files, then its mounts."""
        found = self._images.copied_files(definition.image_id) if definition.image_id else {}
        for mount_id in definition.mount_ids:
            found |= self._mounts.files(mount_id)
        return found

    async def start(self, function_id: str) -> Container:
        """Start one container of a function."""
        self._starting[function_id] += 1
        try:
            function = self._apps.functions[function_id]
            task_id = self._ids.new("ta")
            home = self.home / task_id
            image = self._images.chain(function.definition.image_id)
            disk = ContainerFilesystem(
                home=home,
                files=self.files(function.definition),
                requirements=image.requirements if self.only_image_packages else None,
            )
            volumes = self._mount_volumes(function.definition, home)
            disk.volumes = {
                m.mount_path: (volumes[m.volume_id].folder, m.read_only)
                for m in function.definition.volume_mounts
            }
            await asyncio.to_thread(disk.lay_out)
            container = Container(task_id, function, home, volumes, disk.missing_packages)
            (home / "modal" / "arguments.bin").write_bytes(self._arguments(container).SerializeToString())
            env = self._environment(container, image)
            self._spawn(container, disk.command(["-m", "modal._container_entrypoint"], env))
        finally:
            self._starting[function_id] -= 1
        return container

    def _mount_volumes(self, definition: api_pb2.Function, home: Path) -> dict[str, MountedVolume]:
        mounted = {}
        for mount in definition.volume_mounts:
            volume, folder = self._volumes.get(mount.volume_id), home / "volumes" / mount.volume_id
            mounted[mount.volume_id] = MountedVolume(
                volume, self._volumes.blobs, folder, mount.sub_path, mount.read_only
            )
        return mounted

    def _arguments(self, container: Container) -> api_pb2.ContainerArguments:
        definition = api_pb2.Function()
        definition.CopyFrom(container.function.definition)
        definition._experimental_enable_gpu_snapshot = False  # there is no CUDA driver here to checkpoint
        dependencies = [d.object_id for d in definition.object_dependencies]
        return api_pb2.ContainerArguments(
            task_id=container.task_id,
            function_id=container.function.function_id,
            app_id=container.function.app_id,
            function_def=definition,
            serialized_params=container.function.params,
            environment_name="main",
            checkpoint_id=self._ids.new("ch") if self._takes_snapshot(definition) else "",
            app_layout=self._apps.layout(container.function.app_id, *dependencies),
        )

    def _takes_snapshot(self, definition: api_pb2.Function) -> bool:
        return self.snapshots and definition.is_checkpointing_function

    def _environment(self, container: Container, image: ImageChain) -> dict[str, str]:
        definition = container.function.definition
        env = dict(image.env) | {"LANG": "C.UTF-8"}
        for secret_id in definition.secret_ids:
            env |= self._secrets.env(secret_id)
        env |= {
            "MODAL_IS_REMOTE": "1",
            "MODAL_SERVER_URL": self.server_url,
            "MODAL_OVERRIDE_HEADERS": f"{TASK_HEADER}:{container.task_id}",
            "MODAL_CONTAINER_ARGUMENTS_PATH": "/__modal/arguments.bin",
            "MODAL_RESTORE_STATE_PATH": "/__modal/restore-state.json",
            "MODAL_TASK_ID": container.task_id,
            "MODAL_IMAGE_ID": definition.image_id,
            "MODAL_ENVIRONMENT": "main",
            "MODAL_REGION": "us-east",
            "MODAL_CLOUD_PROVIDER": "CLOUD_PROVIDER_AWS",
            "MODAL_HEARTBEAT_INTERVAL": "0.3",
            "MODAL_DISABLE_API_PROXY": "1",
            "PYTHONUNBUFFERED": "1",
        }
        if self._takes_snapshot(definition):
            env["MODAL_ENABLE_SNAP_RESTORE"] = "1"
        return env | self.extra_env

    def _spawn(self, container: Container, command: list[str]) -> None:
        with (container.home / "log.txt").open("wb") as log:
            container.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.all[container.task_id] = container
        watcher = asyncio.get_running_loop().create_task(self._watch(container))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)

    async def _watch(self, container: Container) -> None:
        """Wait for the process to end, enforcing the per-attempt timeout meanwhile."""
        while container.alive:
            await self._enforce_timeout(container)
            await asyncio.sleep(0.05)
        await self._calls.give_back({container.task_id, *container.aliases})
        if not container.asked_for_input and not container.draining:
            await self._report_failed_start(container)

    async def _enforce_timeout(self, container: Container) -> None:
        limit_s = container.function.definition.timeout_secs
        for an_input in self._calls.inputs(container.function.function_id):
            mine = an_input.task_id == container.task_id or an_input.task_id in container.aliases
            if mine and an_input.running and limit_s and time.monotonic() - an_input.started_at > limit_s:
                text = f"Task's current input {an_input.input_id} hit its timeout of {limit_s}s"
                self.kill(container)
                await self._calls.finish(
                    an_input, Result(status=Result.GENERIC_STATUS_TIMEOUT, exception=text)
                )

    async def _report_failed_start(self, container: Container) -> None:
        if container.start_failure is None:
            text = f"container exited before its first input:\n{container.log[-LOG_TAIL_CHARS:]}"
            container.start_failure = Result(status=Result.GENERIC_STATUS_FAILURE, exception=text)
        # Modal restarts a crash loop with growing delays before inputs fail; here the first failed start decides.
        await self._calls.fail_pending(container.function.function_id, container.start_failure)
        await self._calls.notify()

    def _scale_up(self, function_id: str) -> None:
        if not self.autoscale:
            return
        definition = self._apps.functions[function_id].definition
        slots = definition.max_concurrent_inputs or 1
        work = sum(i.output is None for i in self._calls.inputs(function_id))
        have = len([c for c in self.live(function_id) if not c.draining]) + self._starting[function_id]
        limit = definition.autoscaler_settings.max_containers or 2
        if have < limit and have * slots < work:
            starting = asyncio.get_running_loop().create_task(self._start_logged(function_id))
            self._watchers.add(starting)
            starting.add_done_callback(self._watchers.discard)

    async def _start_logged(self, function_id: str) -> None:
        try:
            await self.start(function_id)
        except Exception as error:
            text = f"the control plane could not start a container: {error!r}"
            failure = Result(status=Result.GENERIC_STATUS_INIT_FAILURE, exception=text)
            await self._calls.fail_pending(function_id, failure)
            raise

    def kill(self, container: Container) -> None:
        """End the process at once, as a preemption without grace does."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(container.pid, signal.SIGKILL)
        assert container.process is not None
        container.process.wait()

    async def stop(self, container: Container, grace_s: float = 30.0) -> int:
        """Ask it to finish (kill switch), wait, and return the exit status."""
        container.draining = True
        await self._calls.notify()
        deadline = time.monotonic() + grace_s
        while container.alive and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        self.kill(container)
        assert container.process is not None
        return container.process.returncode

    async def close(self) -> None:
        """Kill every container and stop watching."""
        self.autoscale = False
        for container in self.all.values():
            container.draining = True
            self.kill(container)
        for watcher in list(self._watchers):
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        for container in self.all.values():
            shutil.rmtree(container.home, ignore_errors=True)

    def _stop_app(self, app_id: str) -> None:
        for container in self.all.values():
            if container.function.app_id == app_id:
                container.draining = True
                self.kill(container)

    def _function_of(self, task_id: str) -> str | None:
        try:
            container = self.get(task_id)
        except Exception:
            return None
        container.asked_for_input = True
        return container.function.function_id if container.alive else None

    def _cancel_input(self, an_input: Input, terminate: bool) -> None:
        container = self.get(an_input.task_id)
        container.to_cancel.append(an_input.input_id)
        if terminate:
            an_input.output = api_pb2.FunctionGetOutputsItem(
                result=Result(status=Result.GENERIC_STATUS_TERMINATED),
                idx=an_input.idx,
                input_id=an_input.input_id,
            )
            self.kill(container)

    async def ContainerHello(self, request: Empty, caller: Caller):  # noqa: N802
        self.get(caller.task_id)
        return Empty()

    async def ContainerHeartbeat(self, request: api_pb2.ContainerHeartbeatRequest, caller: Caller):  # noqa: N802
        container = self.get(caller.task_id)
        if not container.to_cancel:
            return api_pb2.ContainerHeartbeatResponse()
        event = api_pb2.CancelInputEvent(input_ids=container.to_cancel)
        container.to_cancel = []
        return api_pb2.ContainerHeartbeatResponse(cancel_input_event=event)

    async def ContainerCheckpoint(self, request: api_pb2.ContainerCheckpointRequest, caller: Caller):  # noqa: N802
        # One process is both the container that is snapshotted and the one that is restored: a new task id, a new
        # connection, changed variables. Memory is not copied.
        container = self.get(caller.task_id)
        restored = self._ids.new("ta")
        container.aliases.add(restored)
        container.snapshotted = True
        state = {
            "task_id": restored,
            "function_id": container.function.function_id,
            "override_headers": f"{TASK_HEADER}:{restored}",
        }
        path = container.home / "modal" / "restore-state.json"
        path.with_suffix(".tmp").write_text(json.dumps(state))
        path.with_suffix(".tmp").rename(path)
        return Empty()

    async def ContainerStop(self, request: api_pb2.ContainerStopRequest, caller: Caller):  # noqa: N802
        container = self.get(request.task_id)
        container.draining = True
        if not request.graceful:
            self.kill(container)
        await self._calls.notify()
        return api_pb2.ContainerStopResponse()

    async def TaskResult(self, request: api_pb2.TaskResultRequest, caller: Caller):  # noqa: N802
        self.get(caller.task_id).start_failure = request.result
        return Empty()

    async def TaskList(self, request: api_pb2.TaskListRequest, caller: Caller):  # noqa: N802
        return api_pb2.TaskListResponse()

    async def FunctionGetDynamicConcurrency(self, request, caller: Caller):  # noqa: N802
        return api_pb2.FunctionGetDynamicConcurrencyResponse(concurrency=request.max_concurrency)

    def _mounted(self, volume_id: str, caller: Caller) -> tuple[Container, MountedVolume]:
        container = self.get(caller.task_id)
        if volume_id not in container.volumes:
            raise fault(Status.NOT_FOUND, f"Volume {volume_id} is not mounted in this container")
        return container, container.volumes[volume_id]

    async def VolumeCommit(self, request: api_pb2.VolumeCommitRequest, caller: Caller):  # noqa: N802
        _, mounted = self._mounted(request.volume_id, caller)
        if not mounted.read_only:
            mounted.commit()
        return api_pb2.VolumeCommitResponse(skip_reload=True)

    async def VolumeReload(self, request: api_pb2.VolumeReloadRequest, caller: Caller):  # noqa: N802
        container, mounted = self._mounted(request.volume_id, caller)
        mounted.reload(container.pid)
        return Empty()
