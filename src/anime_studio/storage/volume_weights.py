"""Whether the Volume `anime-models` holds a recipe's weights, asked without mounting it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import modal
from grpclib.exceptions import GRPCError, StreamTerminatedError

from anime_studio.core.errors import StorageError
from anime_studio.core.recipes import DEMO, Recipe
from anime_studio.weights import COMPLETE, weights_missing


class VolumeWeights:
    """Looks until they are there; from then on they stay, because folders are never changed."""

    def __init__(
        self,
        volume: modal.Volume,
        recipe: Recipe,
        *,
        volume_name: str,
        fetch_with: str,
        on_found: Callable[[str], None],
    ) -> None:
        """Take what is needed to look.

        Args:
            volume: Where checkpoints are kept.
            recipe: Whose weights.
            volume_name: For people.
            fetch_with: The command that fetches them.
            on_found: Called once, with the revision.
        """
        self._volume = volume
        self._recipe = recipe
        self._volume_name = volume_name
        self._fetch_with = fetch_with
        self._on_found = on_found
        self._revision: str | None = DEMO.revision if recipe is DEMO else None

    async def require(self) -> None:
        """Return once the weights were seen.

        Raises:
            WeightsMissingError: They are not there; `command` fetches them.
            StorageError: The Volume cannot be asked.
        """
        if self._revision is not None:
            return
        self._revision = await self._look()
        if self._revision is None:
            raise weights_missing(self._recipe, f"{self._volume_name}:/{self._recipe.name}", self._fetch_with)
        self._on_found(self._revision)

    async def _look(self) -> str | None:
        folder: Final = self._recipe.name
        try:
            entries = [entry async for entry in self._volume.iterdir.aio(folder, recursive=True)]
        except (FileNotFoundError, modal.exception.NotFoundError):
            return None
        except (modal.exception.Error, GRPCError, StreamTerminatedError, OSError) as error:
            raise StorageError(
                f"the Volume {self._volume_name} cannot be listed: {error}; try again"
            ) from error
        complete = [entry for entry in entries if entry.path.split("/")[-1] == COMPLETE]
        pinned = [entry for entry in complete if self._recipe.revision in ("main", entry.path.split("/")[-2])]
        return max(pinned, key=lambda entry: entry.mtime).path.split("/")[-2] if pinned else None
