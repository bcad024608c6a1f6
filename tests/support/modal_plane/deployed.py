"""What a deploy left behind, to read in assertions."""

from dataclasses import dataclass

from modal_proto import api_pb2

from .apps import App
from .containers import Container, Containers
from .functions import FunctionRecord
from .images import ImageChain, Images
from .launch import Launcher
from .secrets import Secrets
from .volumes import Volumes


@dataclass(frozen=True)
class VolumeMount:
    """One Volume of a function."""

    volume: str
    read_only: bool
    sub_path: str


@dataclass(frozen=True)
class DeployedFunction:
    """One function, or one class (its methods share a function named `Class.*`)."""

    record: FunctionRecord
    _images: Images
    _secrets: Secrets
    _volumes: Volumes
    _launcher: Launcher
    _containers: Containers

    @property
    def definition(self) -> api_pb2.Function:
        """The client's own message: every option of the decorator."""
        return self.record.definition

    @property
    def web_url(self) -> str:
        """Loopback address of a web function, empty for others."""
        return self.record.web_url

    @property
    def gpus(self) -> list[str]:
        """GPU types in order of preference; empty for a CPU function."""
        return self.record.gpus

    @property
    def autoscaler(self) -> api_pb2.AutoscalerSettings:
        """min, max, buffer containers and scaledown window."""
        return self.definition.autoscaler_settings

    @property
    def volumes(self) -> dict[str, VolumeMount]:
        """Mount path -> Volume and its mount options."""
        return {
            m.mount_path: VolumeMount(self._volumes.get(m.volume_id).name, m.read_only, m.sub_path)
            for m in self.definition.volume_mounts
        }

    @property
    def secrets(self) -> list[str]:
        """Names of the Secrets; an anonymous one is the empty string."""
        return [self._secrets.name(secret_id) for secret_id in self.definition.secret_ids]

    @property
    def env(self) -> dict[str, str]:
        """Variables that Secrets (`env=` too) and the image put into the container."""
        found = dict(self.image.env)
        for secret_id in self.definition.secret_ids:
            found |= self._secrets.env(secret_id)
        return found

    @property
    def image(self) -> ImageChain:
        """The image's layers, base first."""
        return self._images.chain(self.definition.image_id)

    @property
    def files(self) -> dict[str, bytes]:
        """Uploaded content by absolute path in the container."""
        return self._launcher.files(self.definition)

    @property
    def containers(self) -> list[Container]:
        """Every container started for it, oldest first."""
        return [c for c in self._containers.all.values() if c.function is self.record]


@dataclass(frozen=True)
class DeployedApp:
    """One deployed app."""

    record: App
    functions: dict[str, DeployedFunction]

    @property
    def tags(self) -> dict[str, str]:
        """Tags given to `modal.App`."""
        return self.record.tags

    @property
    def classes(self) -> list[str]:
        """Names of the classes."""
        return sorted(self.record.class_ids)

    def function(self, name: str) -> DeployedFunction:
        """A function by name, or a class by its name.

        Raises:
            KeyError: the app has no such function; the message lists what it has.
        """
        for candidate in (name, f"{name}.*"):
            if candidate in self.functions:
                return self.functions[candidate]
        raise KeyError(f"{name!r} is not in {sorted(self.functions)}")
