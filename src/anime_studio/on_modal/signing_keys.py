"""The keys in the Modal Secret `anime-studio`: signing keys (make the first, add newer ones, check, read), operator's key.

A Secret's values can be written but not read back, so each newer key is a variable of its own: the first is
`ANIME_STUDIO_SIGNING_KEYS`, later names end in the Unix time. A container has all of them in its environment. The
newest key signs; every key verifies.

Source: client 1.6.4, `modal/secret.py` (`objects.create`, `update` merges, `from_name(required_keys=…)`).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import modal

from anime_studio.core.errors import ConfigurationError, UnavailableError
from anime_studio.on_modal.errors import client_errors
from anime_studio.on_modal.settings import SECRET_NAME, SIGNING_KEYS_VARIABLE

KEY_BYTES: Final = 32
OPERATOR_KEY_VARIABLE: Final = "ANIME_STUDIO_OPERATOR_KEY"
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


def read_operator_key(environment: Mapping[str, str]) -> str | None:
    """Return the operator's key, or None.

    Args:
        environment: A container's variables.
    """
    return environment.get(OPERATOR_KEY_VARIABLE, "").strip() or None


def set_operator_key(environment_name: str | None = None) -> str:
    """Put a new operator's key into the Secret in place of the last one, and return it: nobody can read it again.

    Raises:
        ConfigurationError: There is no Secret yet.
        UnavailableError: Modal cannot be asked.
    """
    require_keys(environment_name)
    key = secrets.token_urlsafe(KEY_BYTES)
    with _modal_errors():
        secret = modal.Secret.from_name(SECRET_NAME, environment_name=environment_name)
        secret.hydrate()
        secret.update({OPERATOR_KEY_VARIABLE: key})
    return key


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
    """Return if the Secret exists and has a key.

    Raises:
        ConfigurationError: It does not; the detail has the command that makes it.
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
    with client_errors(UnavailableError, "Modal cannot be reached"):
        try:
            yield
        except modal.exception.AuthError as error:
            raise ConfigurationError(
                f"Modal knows no account here ({error}); log in with: modal setup"
            ) from error
