"""Named Secrets (`modal/secret.py`, SecretGetOrCreate): a missing name or key fails the deploy."""

import time
from dataclasses import dataclass, field

from google.protobuf.empty_pb2 import Empty
from grpclib import Status
from modal_proto import api_pb2

from .ids import Ids
from .rpc import Caller, fault


@dataclass
class Secret:
    """One Secret; `name` is empty for `Secret.from_dict`."""

    secret_id: str
    name: str
    env: dict[str, str] = field(default_factory=dict)


class Secrets:
    """All Secrets of the workspace."""

    def __init__(self, ids: Ids) -> None:
        self._ids = ids
        self._by_id: dict[str, Secret] = {}

    def create(self, name: str, env: dict[str, str]) -> Secret:
        """Create or replace a Secret, as `modal secret create --force` does."""
        secret = self._named(name) or Secret(self._ids.new("st"), name)
        secret.env = dict(env)
        self._by_id[secret.secret_id] = secret
        return secret

    def env(self, secret_id: str) -> dict[str, str]:
        """Variables of one Secret."""
        return dict(self._by_id[secret_id].env)

    def exists(self, secret_id: str) -> bool:
        """Whether this id names a Secret."""
        return secret_id in self._by_id

    def name(self, secret_id: str) -> str:
        """Its name, empty for an anonymous one."""
        return self._by_id[secret_id].name

    def _named(self, name: str) -> Secret | None:
        return next((s for s in self._by_id.values() if name and s.name == name), None)

    async def SecretGetOrCreate(  # noqa: N802
        self, request: api_pb2.SecretGetOrCreateRequest, caller: Caller
    ) -> api_pb2.SecretGetOrCreateResponse:
        kind = request.object_creation_type
        if kind == api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED:
            return self._answer(self._lookup(request))
        existing = self._named(request.deployment_name)
        if existing and kind == api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS:
            raise fault(Status.ALREADY_EXISTS, f"Secret '{request.deployment_name}' already exists")
        if existing and kind == api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING:
            return self._answer(existing)
        if request.deployment_name:
            return self._answer(self.create(request.deployment_name, dict(request.env_dict)))
        secret = Secret(self._ids.new("st"), "", dict(request.env_dict))
        self._by_id[secret.secret_id] = secret
        return self._answer(secret)

    def _lookup(self, request: api_pb2.SecretGetOrCreateRequest) -> Secret:
        secret = self._named(request.deployment_name)
        if secret is None:
            raise fault(
                Status.NOT_FOUND,
                f"Secret '{request.deployment_name}' not found in environment '{request.environment_name}'",
            )
        missing = [key for key in request.required_keys if key not in secret.env]
        if missing:
            raise fault(Status.NOT_FOUND, f"Secret '{secret.name}' is missing key(s): {', '.join(missing)}")
        return secret

    async def SecretUpdate(  # noqa: N802
        self, request: api_pb2.SecretUpdateRequest, caller: Caller
    ) -> Empty:
        self._by_id[request.secret_id].env.update({u.key: u.value for u in request.updates})
        return Empty()

    def _answer(self, secret: Secret) -> api_pb2.SecretGetOrCreateResponse:
        return api_pb2.SecretGetOrCreateResponse(secret_id=secret.secret_id, metadata=self._metadata(secret))

    def _metadata(self, secret: Secret) -> api_pb2.SecretMetadata:
        created = api_pb2.CreationInfo(created_at=time.time())
        return api_pb2.SecretMetadata(
            name=secret.name, keys=list(secret.env), environment_name="main", creation_info=created
        )
