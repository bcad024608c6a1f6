"""What containers on Modal do for `prove`: a GPU container reports itself, and another one checks rows on the real weights."""

from __future__ import annotations

import gc
import os
import platform
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anime_studio.checkpoints.store import Checkpoint
from anime_studio.core.cpus import usable_cores
from anime_studio.core.decoders import Decoder
from anime_studio.core.recipes import Recipe
from anime_studio.on_modal.gpu_worker import GpuWorker
from anime_studio.on_modal.kernels import StoredKernels
from anime_studio.on_modal.remote_text import RemoteText
from anime_studio.on_modal.settings import SETUP_COMMAND, ModalSettings
from anime_studio.prove.prompts import PROMPTS
from anime_studio.prove.rows import checked
from anime_studio.prove.versions import installed_packages
from common.prove import ContainerReport


def report_of(worker: GpuWorker) -> ContainerReport:
    """Return what a container's worker, and the machine under it, are; the second report of a container is not `first`."""
    from anime_studio.prove.machine import device_in_words

    settings, engine, checkpoint = worker.settings, worker.engine, worker.checkpoint
    first, worker.used = not worker.used, True
    kind, seconds = worker.started
    return ContainerReport(
        container=os.environ.get("MODAL_TASK_ID", ""),
        first=first,
        start_kind=kind,
        start_s=round(seconds, 3),
        error=None if worker.error is None else worker.error.detail,
        settings=settings.as_environment(),
        packages=installed_packages(),
        device=device_in_words("cuda" if settings.uses_gpu else "cpu"),
        kernel=platform.release(),
        cores=usable_cores(),
        resident_gib=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2, 2),  # KiB on Linux
        paths=() if engine is None else engine.paths,
        refused=() if engine is None else engine.refused,
        revision="" if checkpoint is None else checkpoint.revision,
        loaded_from="" if engine is None else engine.components.folder.name,
        prepared=engine is not None
        and checkpoint is not None
        and engine.components.folder != checkpoint.folder,
    )


class Prover:
    """Rows that need the real weights on the deployment's own card, outside of the containers that serve.

    Args:
        settings: Of the deployment.
        text: Makes what asks the text container; it returns None where the GPU container encodes.
        kernels: Makes what keeps compiled kernels, as the containers that serve do; it returns None where none are kept.
        refresh: Makes the Volume of checkpoints show what was committed since it was mounted.
    """

    def __init__(
        self,
        settings: ModalSettings,
        *,
        text: Callable[[], RemoteText | None],
        kernels: Callable[[], StoredKernels | None],
        refresh: Callable[[], None],
    ) -> None:
        self._settings, self._text, self._kernels, self._refresh = settings, text, kernels, refresh
        self._used = False
        self._rows: Any = None

    def plain_start(self) -> dict[str, Any]:
        """Make this container ready as one without a snapshot does; return its `ContainerReport` as JSON values.

        It is `first` only in a container that has done nothing before.
        """
        fresh, self._used = not self._used, True
        worker = GpuWorker(
            self._settings.model_copy(update={"snapshot": "off"}),
            text=self._text(),
            kernels=self._kernels(),
            refresh=self._refresh,
        )
        worker.before_snapshot()
        worker.after_snapshot()
        report = report_of(worker).model_copy(update={"first": fresh})
        del worker
        gc.collect()  # the rows need the GPU's memory
        return report.model_dump(mode="json")

    def check(self, name: str, prompt: str = PROMPTS[0]) -> dict[str, Any]:
        """Check one row of `ENGINE_ROWS` with *prompt*; return verdict, detail, and the bytes of its picture or None."""
        self._used = True
        if self._rows is None or self._rows.prompt != prompt:  # what was drawn is kept for the next row
            self._refresh()
            self._rows = self._engine_rows(prompt)
        found = checked(lambda: self._rows.check(name))
        picture = None if found.picture is None else (self._folder / found.picture).read_bytes()
        return {"verdict": found.verdict.value, "detail": found.detail, "picture": picture}

    def _engine_rows(self, prompt: str) -> Any:
        from anime_studio.prove.engine_rows import EngineRows

        self._folder = Path(tempfile.mkdtemp())
        return EngineRows(self._settings, self._folder, start=self._start, setup=setup_command, prompt=prompt)

    def _start(self, recipe: Recipe, checkpoint: Checkpoint, **options: Any) -> Any:
        from anime_studio.engine.startup import start_engine
        from anime_studio.engine.text import encoder_revision

        text = self._text()
        if text is not None:
            text.revision, text.encoder = checkpoint.revision, encoder_revision(checkpoint.folder)
        return start_engine(recipe, checkpoint, text=text, **options)


def setup_command(recipe: Recipe, decoder: Decoder) -> str:
    """Return the command that fetches a decoder into the Volume."""
    return f"{SETUP_COMMAND} --recipe {recipe.name} --decoder {decoder}"
