"""Apps, Functions and Classes: what `modal deploy` declares.

Sources: `modal/runner.py` (AppCreate, AppPublish, heartbeats, disconnect), `modal/_functions.py` (FunctionPrecreate,
FunctionCreate, handle metadata), `modal/cls.py` (ClassCreate), `modal/_environments.py`.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from google.protobuf.empty_pb2 import Empty
from grpclib import Status
from modal_proto import api_pb2

from .functions import GPU_SNAPSHOT_OPTION, FunctionRecord, function_data, handle_metadata
from .ids import Ids
from .images import BUILDER_VERSION, Images
from .mounts import Mounts
from .rpc import Caller, fault
from .secrets import Secrets
from .volumes import Volumes

OpenWebUrl = Callable[[str], Awaitable[str]]


@dataclass
class App:
    """One app, deployed or running under `modal run`."""

    app_id: str
    description: str
    tags: dict[str, str] = field(default_factory=dict)
    state: "api_pb2.AppState.ValueType" = api_pb2.APP_STATE_INITIALIZING
    name: str = ""
    function_ids: dict[str, str] = field(default_factory=dict)
    class_ids: dict[str, str] = field(default_factory=dict)


class Apps:
    """Everything that AppPublish can refer to."""

    def __init__(self, ids: Ids, images: Images, mounts: Mounts, secrets: Secrets, volumes: Volumes) -> None:
        self._ids = ids
        self._stores: dict[str, Images | Mounts | Secrets | Volumes] = {
            "im": images,
            "mo": mounts,
            "st": secrets,
            "vo": volumes,
        }
        self._volumes = volumes
        self.apps: dict[str, App] = {}
        self.functions: dict[str, FunctionRecord] = {}
        self.open_web_url: OpenWebUrl | None = None
        self.on_app_stopped: Callable[[str], None] = lambda _app_id: None

    def deployed(self, name: str) -> App:
        """The deployed app with this name.

        Raises:
            KeyError: it was never published, so its deploy did not end well.
        """
        for app in self.apps.values():
            if app.name == name and app.state == api_pb2.APP_STATE_DEPLOYED:
                return app
        raise KeyError(f"no app named {name!r} is deployed; deployed: {[a.name for a in self.apps.values()]}")

    async def EnvironmentGetOrCreate(  # noqa: N802
        self, request: api_pb2.EnvironmentGetOrCreateRequest, caller: Caller
    ) -> api_pb2.EnvironmentGetOrCreateResponse:
        settings = api_pb2.EnvironmentSettings(image_builder_version=BUILDER_VERSION, webhook_suffix="")
        metadata = api_pb2.EnvironmentMetadata(name="main", settings=settings)
        return api_pb2.EnvironmentGetOrCreateResponse(environment_id="en-1", metadata=metadata)

    async def AppCreate(  # noqa: N802
        self, request: api_pb2.AppCreateRequest, caller: Caller
    ) -> api_pb2.AppCreateResponse:
        app = App(self._ids.new("ap"), request.description, dict(request.tags), request.app_state)
        self.apps[app.app_id] = app
        url = f"https://modal.com/apps/test/main/{app.app_id}"
        return api_pb2.AppCreateResponse(app_id=app.app_id, app_page_url=url, app_logs_url=url)

    async def AppGetByDeploymentName(  # noqa: N802
        self, request: api_pb2.AppGetByDeploymentNameRequest, caller: Caller
    ) -> api_pb2.AppGetByDeploymentNameResponse:
        known = [a.app_id for a in self.apps.values() if a.name == request.name]
        return api_pb2.AppGetByDeploymentNameResponse(app_id=known[-1] if known else "")

    async def AppGetLayout(  # noqa: N802
        self, request: api_pb2.AppGetLayoutRequest, caller: Caller
    ) -> api_pb2.AppGetLayoutResponse:
        return api_pb2.AppGetLayoutResponse(app_layout=self.layout(request.app_id))

    async def AppHeartbeat(  # noqa: N802
        self, request: api_pb2.AppHeartbeatRequest, caller: Caller
    ) -> Empty:
        return Empty()

    async def AppPublish(  # noqa: N802
        self, request: api_pb2.AppPublishRequest, caller: Caller
    ) -> api_pb2.AppPublishResponse:
        app = self.apps[request.app_id]
        app.function_ids, app.class_ids = dict(request.function_ids), dict(request.class_ids)
        app.name, app.tags = request.name, dict(request.tags)
        app.state = request.app_state
        for function_id in app.function_ids.values():
            await self._publish(app, self.functions[function_id])
        return api_pb2.AppPublishResponse(
            url=f"https://modal.com/apps/test/main/{app.name}", deployed_at=time.time()
        )

    async def _publish(self, app: App, function: FunctionRecord) -> None:
        definition = function.definition
        # The server decides these two: snapshots exist only for deployed apps.
        deployed = app.state == api_pb2.APP_STATE_DEPLOYED
        definition.is_checkpointing_function = definition.checkpointing_enabled and deployed
        flag = definition.experimental_options.get(GPU_SNAPSHOT_OPTION, "")
        definition._experimental_enable_gpu_snapshot = flag.lower() in ("true", "1")

    async def AppClientDisconnect(  # noqa: N802
        self, request: api_pb2.AppClientDisconnectRequest, caller: Caller
    ) -> Empty:
        app = self.apps[request.app_id]
        if app.state == api_pb2.APP_STATE_EPHEMERAL:
            app.state = api_pb2.APP_STATE_STOPPED
            self.on_app_stopped(app.app_id)
        return Empty()

    async def FunctionPrecreate(  # noqa: N802
        self, request: api_pb2.FunctionPrecreateRequest, caller: Caller
    ) -> api_pb2.FunctionPrecreateResponse:
        function_id = request.existing_function_id or self._ids.new("fu")
        function = self.functions.setdefault(function_id, FunctionRecord(function_id, request.app_id))
        function.definition = api_pb2.Function(
            function_name=request.function_name,
            function_type=request.function_type,
            function_schema=request.function_schema,
            webhook_config=request.webhook_config,
            method_definitions=request.method_definitions,
            supported_input_formats=request.supported_input_formats,
            supported_output_formats=request.supported_output_formats,
        )
        await self._give_url(function)
        return api_pb2.FunctionPrecreateResponse(
            function_id=function_id, handle_metadata=handle_metadata(function)
        )

    async def FunctionCreate(  # noqa: N802
        self, request: api_pb2.FunctionCreateRequest, caller: Caller
    ) -> api_pb2.FunctionCreateResponse:
        function_id = request.existing_function_id or self._ids.new("fu")
        function = self.functions.setdefault(function_id, FunctionRecord(function_id, request.app_id))
        function.definition.CopyFrom(self._definition(request, function))
        self._check_references(function.definition)
        await self._give_url(function)
        return api_pb2.FunctionCreateResponse(
            function_id=function_id,
            function=function.definition,
            function_data=function.data,
            handle_metadata=handle_metadata(function),
        )

    def _definition(
        self, request: api_pb2.FunctionCreateRequest, function: FunctionRecord
    ) -> api_pb2.Function:
        function.data = function_data(request)
        ranked = sorted(function.data.ranked_functions, key=lambda r: r.rank)
        function.gpus = [t for r in ranked if (t := r.function.resources.gpu_config.gpu_type)]
        first: api_pb2.Function = ranked[0].function
        return first

    def _check_references(self, definition: api_pb2.Function) -> None:
        used = [definition.image_id, *definition.mount_ids, *definition.secret_ids]
        used += [v.volume_id for v in definition.volume_mounts]
        for object_id in filter(None, used):
            if not self._stores[object_id[:2]].exists(object_id):
                raise fault(
                    Status.NOT_FOUND, f"{definition.function_name} refers to unknown object {object_id}"
                )

    async def _give_url(self, function: FunctionRecord) -> None:
        if function.definition.webhook_config.type and not function.web_url and self.open_web_url:
            function.web_url = await self.open_web_url(function.function_id)

    async def ClassCreate(  # noqa: N802
        self, request: api_pb2.ClassCreateRequest, caller: Caller
    ) -> api_pb2.ClassCreateResponse:
        class_id = request.existing_class_id or self._ids.new("cs")
        return api_pb2.ClassCreateResponse(class_id=class_id, handle_metadata=api_pb2.ClassHandleMetadata())

    async def ClassGet(  # noqa: N802
        self, request: api_pb2.ClassGetRequest, caller: Caller
    ) -> api_pb2.ClassGetResponse:
        class_ids = self._lookup_app(request.app_name).class_ids
        if request.object_tag not in class_ids:
            raise fault(Status.NOT_FOUND, f"No class '{request.object_tag}' in app '{request.app_name}'")
        return api_pb2.ClassGetResponse(
            class_id=class_ids[request.object_tag], handle_metadata=api_pb2.ClassHandleMetadata()
        )

    async def FunctionGet(  # noqa: N802
        self, request: api_pb2.FunctionGetRequest, caller: Caller
    ) -> api_pb2.FunctionGetResponse:
        function_ids = self._lookup_app(request.app_name).function_ids
        if request.object_tag not in function_ids:
            raise fault(Status.NOT_FOUND, f"No function '{request.object_tag}' in app '{request.app_name}'")
        function = self.functions[function_ids[request.object_tag]]
        return api_pb2.FunctionGetResponse(
            function_id=function.function_id,
            function=function.data,
            handle_metadata=handle_metadata(function),
        )

    def _lookup_app(self, name: str) -> App:
        try:
            return self.deployed(name)
        except KeyError as error:
            raise fault(Status.NOT_FOUND, str(error)) from None

    def layout(self, app_id: str, *dependency_ids: str) -> api_pb2.AppLayout:
        """The layout that a container or a redeploy hydrates its objects from."""
        app = self.apps[app_id]
        layout = api_pb2.AppLayout(function_ids=app.function_ids, class_ids=app.class_ids)
        for function_id in app.function_ids.values():
            metadata = handle_metadata(self.functions[function_id])
            layout.objects.add(object_id=function_id, function_handle_metadata=metadata)
        for class_id in app.class_ids.values():
            layout.objects.add(object_id=class_id, class_handle_metadata=api_pb2.ClassHandleMetadata())
        for object_id in dependency_ids:
            volume = self._volumes.metadata(object_id) if object_id.startswith("vo-") else None
            layout.objects.add(object_id=object_id, volume_metadata=volume)
        return layout
