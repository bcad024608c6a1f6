"""The named objects of a deployment on Modal: two Volumes, four Dicts, one Secret.

These are handles; each reaches Modal when it is first used.
"""

from __future__ import annotations

import modal

from anime_studio.on_modal.dicts import JobDicts
from anime_studio.on_modal.settings import (
    ENDED_DICT,
    IDEMPOTENCY_DICT,
    JOBS_DICT,
    MODELS_VOLUME,
    OUTPUTS_VOLUME,
    SECRET_NAME,
    SHOW_DICT,
    SIGNING_KEYS_VARIABLE,
)

models = modal.Volume.from_name(MODELS_VOLUME, create_if_missing=True)
outputs = modal.Volume.from_name(OUTPUTS_VOLUME, create_if_missing=True)
signing_keys = modal.Secret.from_name(SECRET_NAME, required_keys=[SIGNING_KEYS_VARIABLE])
dicts = JobDicts(
    jobs=modal.Dict.from_name(JOBS_DICT, create_if_missing=True),
    ended=modal.Dict.from_name(ENDED_DICT, create_if_missing=True),
    keys=modal.Dict.from_name(IDEMPOTENCY_DICT, create_if_missing=True),
    show=modal.Dict.from_name(SHOW_DICT, create_if_missing=True),
)
