"""Makes a request from keyword arguments and checks it against the contract before it is sent."""

from __future__ import annotations

import uuid
from typing import Literal, TypeAlias, TypedDict

from pydantic import ValidationError

from anime_studio.client.errors import invalid
from common.schemas import GenerateRequest, Resolution

Size: TypeAlias = Resolution | Literal["480p", "480p-portrait", "1080p", "1080p-portrait"]


class Options(TypedDict, total=False):
    """The fields of `GenerateRequest` besides the prompt; `GenerateRequest` documents each."""

    negative_prompt: str | None
    duration: float
    resolution: Size
    seed: int | None
    num_inference_steps: int | None
    guidance_scale: float | None
    deadline_s: float | None
    channel: str | None
    hold: bool
    requested_by: str | None
    source: str | None
    queue_depth: int | None
    fallback: bool | None


def body_of(prompt: str, options: Options) -> str:
    """Return the JSON of the request; a field that was not given is left out.

    Raises:
        InvalidRequestError: The contract refuses it.
    """
    try:
        request = GenerateRequest.model_validate({"prompt": prompt, **options})
    except ValidationError as error:
        raise invalid(error) from None
    return request.model_dump_json(exclude_unset=True)


def new_key() -> str:
    """Return an idempotency key; every try of one call uses the same."""
    return uuid.uuid4().hex
