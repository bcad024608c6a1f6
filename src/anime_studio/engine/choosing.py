"""Which folder of a checkpoint is loaded: its prepared form, or the source where that form cannot be used.

A damaged form costs a slower start, never the start: the source is what it was made from. Nothing of it is used then,
and the log names the file and the command that mends it.
"""

from __future__ import annotations

import gc
from pathlib import Path

import structlog
import torch

from anime_studio.core.errors import CheckpointError
from anime_studio.engine.acceleration import Acceleration, packing_for
from anime_studio.engine.loading import Components, load_components
from anime_studio.prepared import Forms
from anime_studio.telemetry import ENGINE_PREPARED_REFUSED

_log = structlog.get_logger(__name__)


def load_whole(
    source: Path, forms: Forms | None, device: torch.device, acceleration: Acceleration
) -> Components:
    """Load the form that is prepared for *device* and *acceleration*, or *source*.

    Raises:
        CheckpointError: The source is wrong; the detail names the file, and the form's if that is wrong too.
        OutOfMemoryError: The device cannot hold it.
    """
    refusal = ""
    try:
        form = forms.find(packing_for(device.type, acceleration)) if forms else None
        if form is not None:
            return load_components(form, device, acceleration)
    except CheckpointError as error:
        refusal = error.detail
    if not refusal:
        return load_components(source, device, acceleration)
    _log.warning(ENGINE_PREPARED_REFUSED, detail=refusal, loading=str(source))
    gc.collect()  # what of the form was loaded before it was refused
    if device.type == "cuda":
        torch.cuda.empty_cache()
    try:
        return load_components(source, device, acceleration)
    except CheckpointError as error:
        raise CheckpointError(f"{error.detail}. Nor can its prepared form be used: {refusal}") from error
