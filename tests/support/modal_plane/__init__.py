"""A control plane for tests: Modal's server side, small, in this process, on the client's own gRPC stubs.

`modal deploy`, `modal run` and the container entry point are the real ones of the installed client (pinned
`modal~=1.6.4`); only what they talk to is ours. A deploy is recorded message by message; a call starts a container:
`python -m modal._container_entrypoint` in a private root folder that holds the uploaded files, the distributions that
the image installs, the declared Volumes and, of this machine, only system folders and the interpreter.

    def test_clip(control_plane: ControlPlane):
        control_plane.secrets.create("anime-studio", {"SIGNING_KEYS": "…"})
        control_plane.deploy("-m", "pkg.app", cwd=repository, env={"PYTHONPATH": "src"})
        generator = control_plane.app("anime-studio").function("Generator")
        assert generator.gpus == ["L4"] and generator.volumes["/models"].read_only
        control_plane.python(generator, "-c", "import pkg.app")    # import with only those files
        with control_plane.client():                               # this process as a caller
            call = modal.Cls.from_name("anime-studio", "Generator")().render.spawn({"job_id": "j_1"})
            assert call.get(timeout=60)["state"] == "succeeded"
        httpx.get(control_plane.app("anime-studio").function("web").web_url + "/health")

Where each behaviour comes from (files of the client, `modal/…`; guide pages are modal.com/docs/guide/…):

- deploy, layout, publish: `runner.py`, `_functions.py`, `cls.py`, `_environments.py` -> `apps.py`, `functions.py`
- uploads: `mount.py`, `_utils/blob_utils.py` -> `mounts.py`, `blobs.py`; layers: `_image.py` -> `images.py`
- Secrets: `secret.py` -> `secrets.py`; Dicts: `dict.py` -> `dicts.py`
- Volumes outside: `volume.py` -> `volumes.py`; inside (commit): `volume.py`, volumes guide -> `mounted.py`
- calls: `_functions.py` (`_Invocation`, `_FunctionCall`), retries guide -> `calls.py`, `call_rpcs.py`
- containers: `_container_entrypoint.py`, `_runtime/container_io_manager.py`, `_runtime/task_lifecycle_manager.py`
  -> `launch.py`, `containers.py`, `container_rpcs.py`; web: `_runtime/asgi.py` -> `web.py`
- prices, bill, records of containers: `_workspace.py`, `cli/container.py`, `_functions.py` -> `account.py`

Faults on order: `preempt` (kill, or interrupt with grace), `fail_next` (any RPC), `lose`, `expire`,
`background_commit`, `containers.crash_restores`, `account.has_reports`.

Not emulated:

- Images are not built: commands are recorded, packages come from this environment in its versions and its Python;
  apt packages and files that commands would create are absent (this machine's /usr, /etc and /lib are visible).
- No GPU. A memory snapshot is one process that goes through the client's real snapshot and restore code (hooks,
  closed connections, new task id, changed environment); memory is not copied and CUDA is not checkpointed.
- Scheduling is immediate, without `min_containers` or scaledown; a failed start fails the waiting inputs at once
  (Modal restarts the container with growing delays first). Schedules run when a test says so.
- Volume background commits happen when a test says so; no reload, uploads, version 2 or sub-paths of Volumes; no inode,
  size, rate, backlog or payload limits; Dict entries do not expire.
- Web: no WebSockets, no proxy auth, no web methods on classes, one loopback port per function instead of a label, no
  redirect after 150 s.
- Retry policies, class parameters, `with_options`, `map`, Queues, Sandboxes, NetworkFileSystems, bucket mounts, Servers,
  metrics. An RPC that is missing says so.
"""

from .containers import Container
from .deployed import DeployedApp, DeployedFunction, VolumeMount
from .filesystem import namespaces_work
from .plane import ControlPlane

__all__ = ["Container", "ControlPlane", "DeployedApp", "DeployedFunction", "VolumeMount", "namespaces_work"]
