"""Image layers as the client sends them (`modal/_image.py`, ImageGetOrCreate): recorded, never built.

Layers are deduplicated by content, as on Modal. What can be read from a layer without building it is offered
for assertions: its Dockerfile lines, pip requirements, environment, copied local files.
"""

import re
import shlex
from dataclasses import dataclass, field

from grpclib import Status
from modal_proto import api_pb2

from .ids import Ids
from .mounts import Mounts
from .rpc import Caller, fault

BUILDER_VERSION = "2026.10"
_PIP = re.compile(r"^RUN .*?\bpip install (?P<arguments>.*)$")
_OPTIONS_WITH_VALUE = {
    "--index-url", "--extra-index-url", "--find-links", "-i", "-f", "--python", "--prerelease",
    "-c", "--constraint", "--constraints", "--overrides", "--index-strategy", "--torch-backend",
}  # fmt: skip


@dataclass
class ImageChain:
    """One image, from its base layer to its last layer."""

    commands: list[str] = field(default_factory=list)
    context_files: dict[str, bytes] = field(default_factory=dict)
    copied: list[tuple[str, str]] = field(default_factory=list)

    @property
    def env(self) -> dict[str, str]:
        """Variables set with `Image.env`; a reference to another variable is left as it is."""
        lines = (c.removeprefix("ENV ").partition("=") for c in self.commands if c.startswith("ENV "))
        return {key: "".join(shlex.split(value)) for key, _, value in lines}

    @property
    def python_version(self) -> str:
        """`3.12` for `FROM python:3.12.15-slim-…`, else empty."""
        found = [m[1] for c in self.commands if (m := re.match(r"FROM python:(\d+\.\d+)", c))]
        return found[0] if found else ""

    @property
    def requirements(self) -> list[str]:
        """Every requirement that a `pip install` or `uv pip install` layer names, files included."""
        found: list[str] = []
        for command in self.commands:
            # the layer that upgrades pip itself is Modal's, and `$(command -v python)` is one value
            match = _PIP.match(command.replace("$(command -v python)", "python"))
            if match and not match["arguments"].startswith("--upgrade pip"):
                found += self._parse(shlex.split(match["arguments"]))
        return found

    def _parse(self, words: list[str]) -> list[str]:
        found: list[str] = []
        rest = iter(words)
        for word in rest:
            if word in ("-r", "--requirement", "--requirements"):
                found += self._requirements_file(next(rest))
            elif word in _OPTIONS_WITH_VALUE:
                next(rest, None)
            elif not word.startswith("-"):
                found.append(word)
        return found

    def _requirements_file(self, path: str) -> list[str]:
        sources = {c.split()[2]: c.split()[1] for c in self.commands if re.match(r"COPY /\S+ \S+$", c)}
        content = self.context_files[sources.get(path, path)].decode()
        lines = (line.split(" #")[0].strip() for line in content.splitlines())
        return [line for line in lines if line and not line.startswith(("#", "-"))]


class Images:
    """Image id -> its layer; the chain follows base image ids."""

    def __init__(self, ids: Ids, mounts: Mounts) -> None:
        self._ids = ids
        self._mounts = mounts
        self._layers: dict[str, api_pb2.Image] = {}
        self._by_content: dict[bytes, str] = {}

    def exists(self, image_id: str) -> bool:
        """Whether this id names an image."""
        return image_id in self._layers

    def chain(self, image_id: str) -> ImageChain:
        """All layers below and including this image, base first."""
        layer = self._layers[image_id]
        chain = self.chain(layer.base_images[0].image_id) if layer.base_images else ImageChain()
        chain.commands += [c for c in layer.dockerfile_commands if c != "FROM base"]
        chain.context_files.update({f.filename: f.data for f in layer.context_files})
        if layer.context_mount_id:
            copies = (re.match(r"COPY \. (\S+)$", c) for c in layer.dockerfile_commands)
            chain.copied += [(m[1], layer.context_mount_id) for m in copies if m]
        return chain

    def copied_files(self, image_id: str) -> dict[str, bytes]:
        """Files that `add_local_*(copy=True)` bakes into the image, by absolute path."""
        files: dict[str, bytes] = {}
        for target, mount_id in self.chain(image_id).copied:
            root = "" if target in ("/", ".") else "/" + target.strip("/")
            files |= {root + path: data for path, data in self._mounts.files(mount_id).items()}
        return files

    async def ImageGetOrCreate(  # noqa: N802
        self, request: api_pb2.ImageGetOrCreateRequest, caller: Caller
    ) -> api_pb2.ImageGetOrCreateResponse:
        for base in request.image.base_images:
            if base.image_id not in self._layers:
                raise fault(Status.NOT_FOUND, f"Base image {base.image_id} not found")
        key = request.image.SerializeToString(deterministic=True)
        if key not in self._by_content:
            self._by_content[key] = self._ids.new("im")
            self._layers[self._by_content[key]] = request.image
        return api_pb2.ImageGetOrCreateResponse(
            image_id=self._by_content[key],
            result=api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_SUCCESS),
            metadata=api_pb2.ImageMetadata(image_builder_version=BUILDER_VERSION, workdir="/root"),
        )
