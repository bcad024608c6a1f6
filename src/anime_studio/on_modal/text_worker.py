"""What one text container holds: a text encoder on a CPU, or the error that keeps it from being ready.

A text encoder works for a fiftieth of a clip's time and is two thirds of its weights, so it is not in the GPU container
(docs/adr/0022). As in `gpu_worker`, the hooks never raise for an error that a person must fix; each call answers it.
It loads the encoder of the weights in use, and another one when a render asks for that: each answer names its encoder,
and a render takes none that is not of its own weights.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import structlog

from anime_studio.checkpoints.store import Checkpoint, locate
from anime_studio.core.errors import AnimeStudioError, EngineError, WeightsMissingError
from anime_studio.core.recipes import get_recipe
from anime_studio.on_modal.settings import ModalSettings
from anime_studio.on_modal.weights import see_anew, setup_needed
from anime_studio.telemetry import LogEvent
from common.schemas import ClipSpec

if TYPE_CHECKING:
    from anime_studio.engine.text import PromptEncoder

_log = structlog.get_logger(__name__)


class TextWorker:
    """The state of one text container."""

    def __init__(self, settings: ModalSettings, *, refresh: Callable[[], None] = lambda: None) -> None:
        """Store what the methods need; *refresh* as in `GpuWorker`."""
        self.settings = settings
        self.recipe = get_recipe(settings.recipe)
        self.error: AnimeStudioError | None = None
        self._refresh = refresh
        self._encoder: PromptEncoder | None = None
        self._checkpoint: Checkpoint | None = None
        self._encoder_revision = ""

    def load(self) -> None:
        """Load the encoder if it is not loaded: before a snapshot, and again after one that was made without weights."""
        if self._encoder is not None:
            return
        try:
            self._take(self._locate(None))
        except AnimeStudioError as error:
            self.error = error
            _log.error(LogEvent.TEXT_BLOCKED, code=error.code, detail=error.detail)

    def encode(self, spec: Mapping[str, Any], revision: str | None = None) -> dict[str, Any]:
        """Return a clip's text as JSON values and bytes, or the problem.

        Args:
            spec: A `ClipSpec` as JSON values.
            revision: Of the weights that render the clip; None for those that are loaded.

        Returns:
            `{"text": …, "encoder": …}`, as `engine.text.EncodedText.to_bytes` and `engine.text.encoder_revision` give
            them, or `{"problem": …}`.
        """
        from anime_studio.engine.torch_errors import torch_errors

        try:
            if revision is not None and (self._checkpoint is None or self._checkpoint.revision != revision):
                see_anew(self._refresh)
                self._follow(self._locate(revision))
            if self._encoder is None:
                raise self.error or EngineError("the text container was not made ready; see its log")
            with torch_errors():
                text = self._encoder.text_of(ClipSpec.model_validate(spec)).to_bytes()
        except AnimeStudioError as error:
            return {"problem": error.problem().model_dump(mode="json")}
        return {"text": text, "encoder": self._encoder_revision}

    def _follow(self, checkpoint: Checkpoint) -> None:
        """Load the encoder of *checkpoint*, if it is another one: memory has room for one, so the old one goes first."""
        from anime_studio.engine.text import encoder_revision

        old = self._checkpoint
        if old is not None and encoder_revision(checkpoint.folder) == self._encoder_revision:
            self._checkpoint = checkpoint
            return
        self._encoder = self._checkpoint = None
        gc.collect()
        try:
            self._take(checkpoint)
        except AnimeStudioError as error:
            _log.error(LogEvent.WEIGHTS_REFUSED, code=error.code, detail=error.detail)
            if old is not None:
                self._take(old)
            raise

    def _take(self, checkpoint: Checkpoint) -> None:
        from anime_studio.engine.embeddings_cache import EmbeddingsCache
        from anime_studio.engine.startup import start_text_encoder
        from anime_studio.engine.text import encoder_revision

        cache = EmbeddingsCache(self.settings.embeddings_bounds())
        encoder = start_text_encoder(self.recipe, checkpoint, for_gpu=self.settings.uses_gpu, cache=cache)
        self._encoder_revision = encoder_revision(checkpoint.folder)
        self._encoder, self._checkpoint, self.error = encoder, checkpoint, None
        _log.info(LogEvent.TEXT_READY, revision=checkpoint.revision)

    def _locate(self, revision: str | None) -> Checkpoint:
        recipe, models_dir = self.recipe, self.settings.models_dir
        try:
            return locate(recipe, models_dir, revision=revision)
        except WeightsMissingError:
            where = models_dir / recipe.checkpoint_name / (revision or "")
            raise setup_needed(recipe, self.settings.decoder, str(where)) from None
