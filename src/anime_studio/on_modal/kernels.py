"""Compiled kernels on the Volume `anime-models`: a GPU container unpacks them before it warms up, and the first keeps them.

Modal's containers mount that Volume read-only, so a file is uploaded, which shows it whole or not at all. That happens on a
thread after the container is ready, and never inside a snapshot. Whatever fails here costs the next start its seconds.
`engine.kernel_cache` describes the files.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import modal
import structlog

from anime_studio.checkpoints.store import Checkpoint
from anime_studio.core.recipes import Recipe
from anime_studio.on_modal.settings import KERNELS_INSIDE, MODELS_MOUNT
from anime_studio.telemetry import LogEvent

if TYPE_CHECKING:
    from anime_studio.engine.kernel_cache import KernelCache

FOLDER: Final = "kernels"
_KEPT_FILES: Final = 8
"""The newest ones. Each state of the engine's code has a file for each card and recipe."""

_log = structlog.get_logger(__name__)

MakeCache = Callable[[Recipe, Checkpoint], "KernelCache"]


class StoredKernels:
    """The kernels of one GPU container."""

    def __init__(self, volume: modal.Volume, *, make_cache: MakeCache | None = None) -> None:
        """Store what the methods need; *make_cache* is another one in tests."""
        self._volume = volume
        self._make_cache = make_cache or _cache_on_the_volume
        self._cache: KernelCache | None = None
        self._compiled = False
        self.keeping: threading.Thread | None = None
        """The thread that keeps kernels, once there was something to keep."""

    def restore(self, recipe: Recipe, checkpoint: Checkpoint) -> bool:
        """Put kept kernels where inductor and Triton look; return whether there are any. Needs the device."""
        try:
            self._cache = self._make_cache(recipe, checkpoint)
            restored = self._cache.restore()
        except Exception as error:  # noqa: BLE001  a start goes on without them
            _log.warning(LogEvent.KERNELS_REFUSED, detail=f"{type(error).__name__}: {error}")
            return False
        self._compiled = not restored
        return restored

    def keep(self, *, replace: bool) -> None:
        """Start to keep what this container compiled, on a thread. A container that found kernels keeps none.

        Args:
            replace: Whether to replace a file that was refused. False after a restore: another container did.
        """
        compiled, self._compiled = self._compiled, False
        if self._cache is None or not compiled or (self._cache.is_stored and not replace):
            return
        self.keeping = threading.Thread(target=self._keep, args=(self._cache,), name="kernels", daemon=True)
        self.keeping.start()

    def _keep(self, cache: KernelCache) -> None:
        try:
            if (content := cache.pack()) is None:
                return
            with self._volume.batch_upload(force=True) as batch:
                batch.put_file(io.BytesIO(content), f"/{FOLDER}/{cache.file.name}")
            self._remove_old()
        except Exception as error:  # noqa: BLE001  the next container keeps them
            _log.warning(LogEvent.KERNELS_NOT_KEPT, detail=f"{type(error).__name__}: {error}")
        else:
            _log.info(LogEvent.KERNELS_KEPT, file=cache.file.name, size_bytes=len(content))

    def _remove_old(self) -> None:
        files = sorted(self._volume.listdir(FOLDER), key=lambda entry: entry.mtime, reverse=True)
        for entry in files[_KEPT_FILES:]:
            self._volume.remove_file(entry.path)


def _cache_on_the_volume(recipe: Recipe, checkpoint: Checkpoint) -> KernelCache:
    from anime_studio.engine.kernel_cache import KernelCache, made_for
    from anime_studio.engine.startup import device_named

    wanted = made_for(recipe, checkpoint.decoder, device_named("cuda"))
    return KernelCache(MODELS_MOUNT / FOLDER, KERNELS_INSIDE, wanted)
