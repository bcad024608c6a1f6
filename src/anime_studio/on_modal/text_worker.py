"""What one text container holds: a text encoder on a CPU, or the error that keeps it from being ready.

A text encoder works for a fiftieth of a clip's time and is two thirds of its weights, so it is not in the GPU container
(docs/adr/0022). As in `gpu_worker`, the hooks never raise for an error that a person must fix; each call answers it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import structlog

from anime_studio.checkpoints.store import locate
from anime_studio.core.errors import AnimeStudioError, EngineError, WeightsMissingError
from anime_studio.core.recipes import get_recipe
from anime_studio.on_modal.settings import ModalSettings
from anime_studio.on_modal.weights import setup_needed
from anime_studio.telemetry import LogEvent
from common.schemas import ClipSpec

if TYPE_CHECKING:
    from anime_studio.engine.text import PromptEncoder

_log = structlog.get_logger(__name__)


class TextWorker:
    """The state of one text container."""

    def __init__(self, settings: ModalSettings) -> None:
        self.settings = settings
        self.recipe = get_recipe(settings.recipe)
        self.error: AnimeStudioError | None = None
        self._encoder: PromptEncoder | None = None

    def load(self) -> None:
        """Load the encoder if it is not loaded: before a snapshot, and again after one that was made without weights."""
        if self._encoder is not None:
            return
        from anime_studio.engine.startup import start_text_encoder

        recipe, models_dir = self.recipe, self.settings.models_dir
        try:
            try:
                checkpoint = locate(recipe, models_dir)
            except WeightsMissingError:
                where = models_dir / recipe.checkpoint_name
                raise setup_needed(recipe, self.settings.decoder, str(where)) from None
            self._encoder = start_text_encoder(recipe, checkpoint, for_gpu=self.settings.uses_gpu)
            self.error = None
            _log.info(LogEvent.TEXT_READY, revision=checkpoint.revision)
        except AnimeStudioError as error:
            self.error = error
            _log.error(LogEvent.TEXT_BLOCKED, code=error.code, detail=error.detail)

    def encode(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """Return a clip's text as JSON values and bytes, or the problem.

        Args:
            spec: A `ClipSpec` as JSON values.

        Returns:
            `{"text": …}`, as `engine.text.EncodedText.to_bytes` gives it, or `{"problem": …}`.
        """
        from anime_studio.engine.torch_errors import torch_errors

        try:
            if self._encoder is None:
                raise self.error or EngineError("the text container was not made ready; see its log")
            with torch_errors():
                return {"text": self._encoder.text_of(ClipSpec.model_validate(spec)).to_bytes()}
        except AnimeStudioError as error:
            return {"problem": error.problem().model_dump(mode="json")}
