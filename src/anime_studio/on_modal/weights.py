"""The Volume `anime-models`: whether it holds a recipe's and a decoder's weights, and how a container sees it anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import modal
import structlog

from anime_studio.checkpoints.decoders import relative_folder
from anime_studio.checkpoints.manifest import COMPLETE
from anime_studio.checkpoints.store import weights_missing
from anime_studio.core.decoders import PUBLISHED, Decoder
from anime_studio.core.errors import StorageError, WeightsMissingError
from anime_studio.core.recipes import DEMO, Recipe
from anime_studio.on_modal.errors import CLIENT_ERRORS, client_errors
from anime_studio.on_modal.settings import SETUP_COMMAND
from anime_studio.telemetry import LogEvent

_log = structlog.get_logger(__name__)


class VolumeWeights:
    """Asks until the weights are there, and then no more, because a complete folder is never changed."""

    def __init__(
        self,
        volume: modal.Volume,
        recipe: Recipe,
        decoder: Decoder = Decoder.FULL,
        *,
        volume_name: str,
    ) -> None:
        """Store what the methods need.

        Args:
            volume: Where checkpoints are stored.
            recipe: Whose weights.
            decoder: What decodes.
            volume_name: For messages.
        """
        self._volume = volume
        self._recipe = recipe
        self._decoder = decoder
        self._volume_name = volume_name
        self._missing = [] if recipe.name == DEMO.name else [recipe.checkpoint_name]
        if decoder is not Decoder.FULL:
            self._missing.append(relative_folder(PUBLISHED[decoder]).as_posix())

    async def require(self) -> None:
        """Return if the weights are there.

        Raises:
            WeightsMissingError: They are not there; `command` fetches them.
            StorageError: The Volume cannot be asked.
        """
        while self._missing:
            if not await self._is_there(self._missing[0]):
                raise setup_needed(self._recipe, self._decoder, f"{self._volume_name}:/{self._missing[0]}")
            self._missing.pop(0)

    async def _is_there(self, folder: str) -> bool:
        with client_errors(StorageError, f"the Volume {self._volume_name} cannot be listed"):
            try:
                entries = [entry async for entry in self._volume.iterdir.aio(folder, recursive=True)]
            except (FileNotFoundError, modal.exception.NotFoundError):
                return False
        complete = [Path(entry.path) for entry in entries if Path(entry.path).name == COMPLETE]
        if folder != self._recipe.checkpoint_name or self._recipe.revision == "main":
            return bool(complete)
        return any(path.parent.name == self._recipe.revision for path in complete)


def see_anew(refresh: Callable[[], None]) -> None:
    """Make a mounted Volume show what was committed since; if that fails, what was mounted goes on.

    Args:
        refresh: `Volume.reload`. Modal refuses it while a file is open, by a `RuntimeError`.
    """
    try:
        refresh()
    except (RuntimeError, OSError, *CLIENT_ERRORS) as error:
        _log.warning(LogEvent.WEIGHTS_NOT_SEEN, detail=f"{type(error).__name__}: {error}")


def setup_needed(recipe: Recipe, decoder: Decoder, where: str) -> WeightsMissingError:
    """Return the error that says that weights are not *where*, and the `setup` that fetches all that are needed."""
    command = f"{SETUP_COMMAND} --recipe {recipe.name}"
    if decoder is Decoder.FULL:
        return weights_missing(f"recipe {recipe.name}", where, command)
    return weights_missing(
        f"recipe {recipe.name} with decoder {decoder}", where, f"{command} --decoder {decoder}"
    )
