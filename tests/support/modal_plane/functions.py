"""One Function as the server keeps it, and the handle metadata that hydrates client objects.

Source: `modal/_functions.py` (FunctionCreate with one definition or one per GPU choice, `_hydrate_metadata`) and
`modal/cls.py` (methods share the class's function).
"""

from dataclasses import dataclass, field

from modal_proto import api_pb2

GPU_SNAPSHOT_OPTION = "enable_gpu_snapshot"


@dataclass
class FunctionRecord:
    """One Function as the client defined it; `definition` is the real `api_pb2.Function`."""

    function_id: str
    app_id: str
    definition: api_pb2.Function = field(default_factory=api_pb2.Function)
    web_url: str = ""
    gpus: list[str] = field(default_factory=list)
    data: api_pb2.FunctionData = field(default_factory=api_pb2.FunctionData)
    params: bytes = b""


def function_data(request: api_pb2.FunctionCreateRequest) -> api_pb2.FunctionData:
    """The same Function with one entry per GPU choice; a plain Function becomes a list of one."""
    if request.HasField("function_data"):
        return request.function_data
    data = api_pb2.FunctionData()
    shared = set(data.DESCRIPTOR.fields_by_name)
    for descriptor, value in request.function.ListFields():
        if descriptor.name not in shared:
            continue
        target = getattr(data, descriptor.name)
        if hasattr(target, "MergeFrom"):
            target.MergeFrom(value)
        else:
            setattr(data, descriptor.name, value)
    data.ranked_functions.add(rank=0, function=request.function)
    return data


def handle_metadata(function: FunctionRecord) -> api_pb2.FunctionHandleMetadata:
    """Handle metadata of a Function, with one entry per method of a class."""
    definition = function.definition
    metadata = api_pb2.FunctionHandleMetadata(
        function_name=definition.function_name,
        function_type=definition.function_type,
        web_url=function.web_url,
        definition_id=f"de-{function.function_id}",
        class_parameter_info=definition.class_parameter_info,
        function_schema=definition.function_schema,
        supported_input_formats=definition.supported_input_formats,
        supported_output_formats=definition.supported_output_formats,
        app_id=function.app_id,
    )
    for name, method in definition.method_definitions.items():
        metadata.method_handle_metadata[name].CopyFrom(
            api_pb2.FunctionHandleMetadata(
                function_name=method.function_name,
                function_type=method.function_type,
                is_method=True,
                use_method_name=name,
                function_schema=method.function_schema,
                supported_input_formats=method.supported_input_formats,
                supported_output_formats=method.supported_output_formats,
                app_id=function.app_id,
            )
        )
    return metadata
