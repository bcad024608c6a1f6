"""The signing keys in the Modal Secret `anime-studio`: made, added to, looked for, read.

A Secret's values can be written but not read back, so a newer key is a further variable: the first is
`ANIME_STUDIO_SIGNING_KEYS`, later ones carry the Unix time in their names. In a container all of them are in
the environment; the newest signs, all verify.

Source: client 1.6.4, `modal/secret.py` (`objects.create`, `update` merges, `from_name(required_keys=…)`).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import modal
from grpclib.exceptions import GRPCError

from anime_studio.core.errors import ConfigurationError, UnavailableError
from anime_studio.modal_settings import SECRET_NAME, SIGNING_KEYS_VARIABLE

KEY_BYTES: Final = 32
MAKE_ONE: Final = (
    f"the Modal Secret {SECRET_NAME!r} with the signing keys is missing; make it with: anime-studio keys new"
)


def read_keys(environment: Mapping[str, str]) -> Sequence[str]:
    """Return the signing keys, oldest first.

    Args:
        environment: A container's variables.
    """
    names = sorted(name for name in environment if name.startswith(SIGNING_KEYS_VARIABLE))
    return [key.strip() for name in names for key in environment[name].split(",")]


def add_key(environment_name: str | None = None) -> bool:
    """Add a new key to the Secret; return whether the Secret is new too.

    Raises:
        UnavailableError: Modal cannot be asked.
    """
    key = secrets.token_urlsafe(KEY_BYTES)
    with _modal_errors():
        try:
            modal.Secret.objects.create(
                SECRET_NAME, {SIGNING_KEYS_VARIABLE: key}, environment_name=environment_name
            )
        except modal.exception.AlreadyExistsError:
            secret = modal.Secret.from_name(SECRET_NAME, environment_name=environment_name)
            secret.hydrate()
            secret.update({f"{SIGNING_KEYS_VARIABLE}_{int(time.time())}": key})
            return False
    return True


def require_keys(environment_name: str | None = None) -> None:
    """Return if the Secret is there and has a key.

    Raises:
        ConfigurationError: It is not; the detail has the command that makes it.
        UnavailableError: Modal cannot be asked.
    """
    secret = modal.Secret.from_name(
        SECRET_NAME, required_keys=[SIGNING_KEYS_VARIABLE], environment_name=environment_name
    )
    with _modal_errors():
        try:
            secret.hydrate()
        except modal.exception.NotFoundError as error:
            raise ConfigurationError(f"{MAKE_ONE} ({error})") from None


@contextmanager
def _modal_errors() -> Iterator[None]:
    try:
        yield
    except modal.exception.AuthError as error:
        raise ConfigurationError(
            f"Modal knows no account here ({error}); log in with: modal setup"
        ) from error
    except (modal.exception.Error, GRPCError, OSError) as error:
        raise UnavailableError(f"Modal cannot be reached: {error}; try again") from error
