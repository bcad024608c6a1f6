"""The control plane as one object: a server thread, the client's environment, and the test's handles."""

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import modal
from grpclib import Status
from grpclib.server import Server
from modal._utils.grpc_utils import custom_detail_codec
from modal_proto import api_pb2

from .account import Account
from .apps import Apps
from .blobs import BlobStore
from .call_rpcs import CallRpcs
from .calls import Calls, Result
from .container_rpcs import ContainerRpcs
from .containers import Container, Containers
from .deployed import DeployedApp, DeployedFunction
from .dicts import Dicts
from .ids import Ids
from .images import Images
from .launch import Launcher
from .logs import Logs
from .mounts import Mounts
from .rpc import Traffic, build_servicer, fault
from .secrets import Secrets
from .volumes import Volumes
from .web import WebGateway

T = TypeVar("T")
TOKEN_ID, TOKEN_SECRET = "ak-test", "as-test"
WAIT_S = 100.0  # less than pytest's own timeout, so that a failure shows the containers' output


class ControlPlane:
    """Use as a context manager. Attributes `secrets`, `volumes`, `dicts`, `calls`, `account` are the live stores."""

    def __init__(self) -> None:
        ids = Ids()
        self.traffic = Traffic(TOKEN_ID)
        self.blobs = BlobStore(ids)
        self.mounts = Mounts(ids, self.blobs)
        self.images = Images(ids, self.mounts)
        self.secrets = Secrets(ids)
        self.volumes = Volumes(ids, self.blobs)
        self.dicts = Dicts(ids)
        self._apps = Apps(ids, self.images, self.mounts, self.secrets, self.volumes)
        self._ids = ids
        self._launcher = Launcher(self._apps, self.images, self.mounts, self.secrets, self.volumes)
        self.settings = self._launcher.settings
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.url = ""

    def __enter__(self) -> "ControlPlane":
        self._home = tempfile.TemporaryDirectory(prefix="control-plane-")
        self._thread.start()
        self._run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._home.cleanup()

    async def _start(self) -> None:
        self.calls = Calls(self._ids)
        self.containers = Containers(self._ids, self._apps, self.calls, self._launcher)
        self.account = Account(self.containers)
        self._web = WebGateway(self.calls, self.blobs)
        self._apps.open_web_url = self._web.open
        self.blobs.base_url = await self._web.serve(self.blobs.http_app())
        services = [
            self._apps,
            self.blobs,
            self.mounts,
            self.images,
            self.secrets,
            self.volumes,
            self.dicts,
            CallRpcs(self._apps, self.calls, self.containers),
            ContainerRpcs(self._ids, self.calls, self.containers),
            Logs(self._apps, self.containers),
            self.account,
        ]
        servicer = build_servicer(services, self.traffic)
        self._server = Server([servicer], status_details_codec=custom_detail_codec)
        await self._server.start("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{_port(self._server)}"
        self.containers.home, self._launcher.server_url = Path(self._home.name) / "containers", self.url

    async def _stop(self) -> None:
        await self.containers.close()
        await self._web.close()
        self._server.close()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._server.wait_closed(), 5)
        leftover = asyncio.all_tasks() - {asyncio.current_task()}
        for task in leftover:
            task.cancel()
        await asyncio.gather(*leftover, return_exceptions=True)
        await self._loop.shutdown_default_executor()  # a container may still be laying out its disk

    def _run(self, work: Coroutine[Any, Any, T], timeout_s: float = WAIT_S) -> T:
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(timeout_s)

    # --- the client's side -------------------------------------------------------------------------------------

    def client_env(self) -> dict[str, str]:
        """Variables that point the `modal` client at this server, and away from any real account."""
        return {
            "MODAL_SERVER_URL": self.url,
            "MODAL_TOKEN_ID": TOKEN_ID,
            "MODAL_TOKEN_SECRET": TOKEN_SECRET,
            "MODAL_ENVIRONMENT": "main",
            "MODAL_CONFIG_PATH": f"{self._home.name}/modal.toml",
            "MODAL_DISABLE_API_PROXY": "1",
            "MODAL_HEARTBEAT_INTERVAL": "2",
            "MODAL_LOGS_TIMEOUT": "120",
        }

    def cli(
        self, *arguments: str, cwd: Path, env: Mapping[str, str] | None = None, timeout_s: float = WAIT_S
    ) -> subprocess.CompletedProcess[str]:
        """Run the real command line, `modal <arguments>`, in a process of its own."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MODAL_")}
        return subprocess.run(
            [sys.executable, "-m", "modal", *arguments],
            cwd=cwd,
            env={**clean, "TERM": "dumb", "COLUMNS": "200", **self.client_env(), **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def deploy(self, *arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> str:
        """`modal deploy <arguments>`; return its output.

        Raises:
            RuntimeError: the command failed; the message carries its output.
        """
        done = self.cli("deploy", *arguments, cwd=cwd, env=env)
        if done.returncode != 0:
            raise RuntimeError(f"modal deploy failed ({done.returncode}):\n{done.stdout}\n{done.stderr}")
        return done.stdout

    @contextlib.contextmanager
    def client(self) -> Iterator[modal.Client]:
        """Make this process's `modal` objects talk to this server meanwhile."""
        before = {k: os.environ.get(k) for k in self.client_env()}
        os.environ.update(self.client_env())
        client = _off_loop(modal.Client.from_credentials, TOKEN_ID, TOKEN_SECRET)
        modal.Client._set_env_client(client)
        try:
            yield client
        finally:
            modal.Client._set_env_client(None)
            _off_loop(client.close)
            for key, value in before.items():
                os.environ.pop(key) if value is None else os.environ.update({key: value})

    # --- what a deploy left behind -----------------------------------------------------------------------------

    def app(self, name: str) -> DeployedApp:
        """A deployed app by name; KeyError when no deploy of it ended well."""
        record = self._apps.deployed(name)
        stores = (self.images, self.secrets, self.volumes, self._launcher, self.containers)
        functions = {
            tag: DeployedFunction(self._apps.functions[function_id], *stores)
            for tag, function_id in record.function_ids.items()
        }
        return DeployedApp(record, functions)

    # --- containers --------------------------------------------------------------------------------------------

    def start_container(self, function: DeployedFunction) -> Container:
        """Start one container by hand; inputs start them on their own while `containers.autoscale` is True."""
        return self._run(self.containers.start(function.record.function_id))

    def preempt(self, container: Container, grace_s: float = 0.0) -> None:
        """Take the machine away; the input it worked on starts again elsewhere under the same id.

        With `grace_s` the container is interrupted first (SIGINT, `_runtime/task_lifecycle_manager.py`) and may run its
        exit hooks (30 s on Modal); without, it dies in the middle of whatever it did.
        """
        if grace_s:
            self._run(self.containers.interrupt(container, grace_s))
        else:
            self._loop.call_soon_threadsafe(self.containers.kill, container)
        self.wait_until(lambda: not container.alive, "the container to die")

    def stop_container(self, container: Container) -> int:
        """Scale down: finish, run exit hooks and lifespan shutdown; return the exit status."""
        return self._run(self.containers.stop(container))

    def background_commit(self, container: Container) -> None:
        """Commit a container's Volumes now, as Modal does by itself every few seconds."""

        async def commit() -> None:
            for mounted in container.volumes.values():
                mounted.commit()

        self._run(commit())

    def fail_next(self, rpc: str, status: Status, message: str = "ordered by a test", times: int = 1) -> None:
        """Let the next requests to one RPC fail; the client retries UNAVAILABLE and the like three times itself."""
        self.traffic.faults.setdefault(rpc, []).extend(fault(status, message) for _ in range(times))

    def lose(self, call_id: str) -> None:
        """End a call as Modal's infrastructure does when it loses one: the caller gets `InternalFailure`."""

        async def lose() -> None:
            for an_input in self.calls.calls[call_id].inputs:
                lost = Result(status=Result.GENERIC_STATUS_INTERNAL_FAILURE, exception="lost by the test")
                await self.calls.finish(an_input, lost)

        self._run(lose())

    def crash(self, call_id: str, text: str) -> None:
        """End a call as Modal does when its container crashed for good: a failure with the server's words alone."""

        async def crash() -> None:
            for an_input in self.calls.calls[call_id].inputs:
                failure = Result(status=Result.GENERIC_STATUS_FAILURE, exception=text)
                await self.calls.finish(an_input, failure)

        self._run(crash())

    def expire(self, call_id: str) -> None:
        """Drop a call's result, as Modal does after seven days."""

        async def expire() -> None:
            call = self.calls.calls[call_id]
            call.expired = True
            for an_input in call.inputs:
                await self.calls.finish(an_input, Result(status=Result.GENERIC_STATUS_TERMINATED))
            await self.calls.notify()

        self._run(expire())

    def python(self, function: DeployedFunction, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run `python <argv>` on the disk of one of the function's containers (uploaded files, its image's packages)."""
        return self.containers.run_python(function.record.function_id, *argv, timeout_s=WAIT_S)

    def run_schedule(self, function: DeployedFunction) -> str:
        """Run a scheduled function once now; return the call id."""
        payload = api_pb2.FunctionInput(data_format=api_pb2.DATA_FORMAT_PICKLE)
        kind = api_pb2.FUNCTION_CALL_INVOCATION_TYPE_ASYNC
        return self._run(self.calls.start(function.record.function_id, [payload], kind)).call_id

    def wait_until(self, condition: Callable[[], object], what: str, timeout_s: float = WAIT_S) -> None:
        """Poll until the condition is truthy.

        Raises:
            TimeoutError: it never was; the message ends with the containers' output.
        """
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                logs = "\n".join(f"{c.task_id}: {c.log[-2000:]}" for c in self.containers.all.values())
                raise TimeoutError(f"waited {timeout_s:.0f} s for {what}\n{logs}")
            time.sleep(0.05)


def _port(server: Server) -> int:
    sockets = server._server.sockets  # type: ignore[union-attr]  # grpclib has no public way to ask
    port: int = sockets[0].getsockname()[1]
    return port


def _off_loop(work: Callable[..., T], *arguments: object) -> T:
    """Run a blocking client call in a thread: in an async test the client would warn about its event loop."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work, *arguments).result()
