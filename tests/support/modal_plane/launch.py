"""Prepare one container: its arguments file, environment, Volumes and disk.

Sources: `modal/_container_entrypoint.py` (MODAL_CONTAINER_ARGUMENTS_PATH, MODAL_ENABLE_SNAP_RESTORE) and
modal.com/docs/guide/environment_variables.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from modal_proto import api_pb2

from .apps import Apps
from .filesystem import ContainerFilesystem
from .functions import FunctionRecord
from .images import ImageChain, Images
from .mounted import MountedVolume
from .mounts import Mounts
from .rpc import TASK_HEADER
from .secrets import Secrets
from .volumes import Volumes

ENTRY_POINT = ("-m", "modal._container_entrypoint")


@dataclass
class Settings:
    """What tests may change.

    Attributes:
        autoscale: inputs start containers by themselves.
        snapshots: a deployed function with memory snapshots goes through snapshot and restore.
        extra_env: variables added to every container (thread limits, say).
    """

    autoscale: bool = True
    snapshots: bool = True
    extra_env: dict[str, str] = field(default_factory=dict)


@dataclass
class Prepared:
    """A container that is ready to start."""

    command: list[str]
    volumes: dict[str, MountedVolume]
    missing_packages: list[str]


class Launcher:
    """Knows every store that a container is made from."""

    def __init__(
        self, apps: Apps, images: Images, mounts: Mounts, secrets: Secrets, volumes: Volumes
    ) -> None:
        self._apps, self._images, self._mounts = apps, images, mounts
        self._secrets, self._volumes = secrets, volumes
        self.settings = Settings()
        self.server_url = ""

    def files(self, definition: api_pb2.Function) -> dict[str, bytes]:
        """Every uploaded file of a function: its image's copied files, then its mounts."""
        found = self._images.copied_files(definition.image_id) if definition.image_id else {}
        for mount_id in definition.mount_ids:
            found |= self._mounts.files(mount_id)
        return found

    def prepare(
        self,
        function: FunctionRecord,
        task_id: str,
        home: Path,
        argv: Sequence[str] = ENTRY_POINT,
        checkpoint_id: str = "",
    ) -> Prepared:
        """Lay out the disk under `home`; the command starts `python <argv>` on it."""
        definition = function.definition
        image = self._images.chain(definition.image_id)
        volumes = self._check_out(definition, home)
        disk = ContainerFilesystem(
            home=home,
            files=self.files(definition),
            requirements=image.requirements,
            volumes={
                m.mount_path: (volumes[m.volume_id].folder, m.read_only) for m in definition.volume_mounts
            },
        )
        disk.lay_out()
        arguments = self._arguments(function, task_id, checkpoint_id)
        (home / "modal" / "arguments.bin").write_bytes(arguments.SerializeToString())
        env = self._environment(definition, image, task_id, bool(checkpoint_id))
        return Prepared(disk.command(list(argv), env), volumes, disk.missing_packages)

    def _check_out(self, definition: api_pb2.Function, home: Path) -> dict[str, MountedVolume]:
        mounted = {}
        for mount in definition.volume_mounts:
            volume, folder = self._volumes.get(mount.volume_id), home / "volumes" / mount.volume_id
            mounted[mount.volume_id] = MountedVolume(volume, self._volumes.blobs, folder, mount.read_only)
        return mounted

    def _arguments(
        self, function: FunctionRecord, task_id: str, checkpoint_id: str
    ) -> api_pb2.ContainerArguments:
        definition = api_pb2.Function()
        definition.CopyFrom(function.definition)
        definition._experimental_enable_gpu_snapshot = False  # there is no CUDA driver here to checkpoint
        dependencies = [d.object_id for d in definition.object_dependencies]
        return api_pb2.ContainerArguments(
            task_id=task_id,
            function_id=function.function_id,
            app_id=function.app_id,
            function_def=definition,
            serialized_params=function.params,
            environment_name="main",
            checkpoint_id=checkpoint_id,
            app_layout=self._apps.layout(function.app_id, *dependencies),
        )

    def _environment(
        self, definition: api_pb2.Function, image: ImageChain, task_id: str, snapshot: bool
    ) -> dict[str, str]:
        env = dict(image.env) | {"LANG": "C.UTF-8"}
        for secret_id in definition.secret_ids:
            env |= self._secrets.env(secret_id)
        env |= {
            "MODAL_IS_REMOTE": "1",
            "MODAL_SERVER_URL": self.server_url,
            "MODAL_OVERRIDE_HEADERS": f"{TASK_HEADER}:{task_id}",
            "MODAL_CONTAINER_ARGUMENTS_PATH": "/__modal/arguments.bin",
            "MODAL_RESTORE_STATE_PATH": "/__modal/restore-state.json",
            "MODAL_TASK_ID": task_id,
            "MODAL_IMAGE_ID": definition.image_id,
            "MODAL_ENVIRONMENT": "main",
            "MODAL_REGION": "us-east",
            "MODAL_CLOUD_PROVIDER": "CLOUD_PROVIDER_AWS",
            "MODAL_HEARTBEAT_INTERVAL": "0.3",  # cancellations arrive with heartbeats; 15 s on Modal
            "MODAL_DISABLE_API_PROXY": "1",
            "PYTHONUNBUFFERED": "1",
        }
        if snapshot:
            env["MODAL_ENABLE_SNAP_RESTORE"] = "1"
        return env | self.settings.extra_env
