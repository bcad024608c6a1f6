"""The rows that any machine with the engine can check: packages, weights, device, fast paths, samplers, decoders."""

from __future__ import annotations

import gc
import platform
import re
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import numpy as np
import torch

from anime_studio.checkpoints.decoders import locate_with_decoder
from anime_studio.checkpoints.prepared import prepare_again
from anime_studio.core.clip import plan
from anime_studio.core.cpus import usable_cores
from anime_studio.core.decoders import Decoder
from anime_studio.core.errors import AnimeStudioError, OutOfMemoryError, WeightsMissingError
from anime_studio.core.recipes import RECIPES, Recipe, get_recipe
from anime_studio.engine.engine import FLAT_STD, Engine
from anime_studio.engine.startup import start_engine
from anime_studio.prove.pictures import Frames, psnr_db, ssim, write_contact_sheet
from anime_studio.settings import Settings
from common.prove import Verdict
from common.schemas import GenerateRequest, Stage

CONSTRAINTS: Final = Path(__file__).parents[3] / "constraints.txt"
PROMPT: Final = "a small cat sits on a roof at sunset"
SEED: Final = 7
LEAST_PSNR_DB: Final = 20.0
"""Chosen, not measured: two clips that differ by more show other things. The contact sheet is for the eye."""

Found = tuple[Verdict, str]
StartEngine = Callable[..., Engine]


class EngineRows:
    """Checks rows with the real weights; a clip that two rows need is drawn once.

    Args:
        settings: Recipe, decoder, device and where the weights are.
        folder: Where the pictures are written.
        start: Starts an engine; another one in tests.
        constraints: The pinned versions; absent in an installed wheel.
    """

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        *,
        start: StartEngine = start_engine,
        constraints: Path = CONSTRAINTS,
    ) -> None:
        self.recipe = get_recipe(settings.recipe)
        self._settings, self._folder, self._start, self._constraints = settings, folder, start, constraints
        self._frames: dict[tuple[str, Decoder, bool], Frames] = {}
        self._taken: tuple[str, ...] = ()
        self._refused: tuple[str, ...] = ()
        self._loaded_from: Path | None = None

    def check(self, name: str) -> Found:
        """Check the row called *name* (one of `ENGINE_ROWS`)."""
        try:
            return ENGINE_ROWS[name](self)
        except (WeightsMissingError, OutOfMemoryError) as error:
            return Verdict.NOT_CHECKED, error.detail
        except AnimeStudioError as error:
            return Verdict.FALLS_SHORT, error.detail

    def picture(self, name: str) -> str | None:
        """Return the file name of the row's contact sheet, None if it wrote none."""
        return f"{name}.png" if (self._folder / f"{name}.png").exists() else None

    def versions(self) -> Found:
        """Compare the installed packages with the pinned list."""
        if not self._constraints.exists():
            return Verdict.NOT_CHECKED, "the pinned list, constraints.txt, is in a clone of the project only"
        lines = self._constraints.read_text(encoding="utf-8").splitlines()
        matches = (re.match(r"([\w.-]+)==([^\s;]+)", line) for line in lines)
        pinned = {match[1]: match[2] for match in matches if match}
        installed = {name: found for name in pinned if (found := _installed(name))}
        other = [
            f"{name} {found} (pinned {pinned[name]})"
            for name, found in installed.items()
            if found != pinned[name]
        ]
        if other:
            return Verdict.FALLS_SHORT, f"other versions than pinned: {', '.join(other)}"
        return (
            Verdict.HOLDS,
            f"{len(installed)} installed packages have the pinned versions; torch {torch.__version__}",
        )

    def weights(self) -> Found:
        """Hash every file, and see whether a prepared checkpoint is in use."""
        settings, recipe = self._settings, self.recipe
        checkpoint = locate_with_decoder(recipe, settings.decoder, settings.models_dir, hashes=True)
        self._render(recipe, settings.decoder)
        loaded = self._loaded_from
        detail = f"every byte of commit {checkpoint.revision} is as listed; loaded from {loaded.name if loaded else '?'}"
        if recipe.repo_id is not None and loaded == checkpoint.folder:
            return Verdict.FALLS_SHORT, f"{detail}, which is not prepared: {prepare_again(checkpoint)}"
        return Verdict.HOLDS, detail

    def device(self) -> Found:
        """Name device, driver, and the fast paths taken and refused."""
        self._render(self.recipe, self._settings.decoder)
        taken = ", ".join(self._taken) or "none"
        detail = f"{_device(self._settings.device)}; torch {torch.__version__}; fast paths taken: {taken}"
        if self._refused:
            return Verdict.FALLS_SHORT, f"{detail}; refused: {', '.join(self._refused)}"
        return Verdict.HOLDS, f"{detail}; refused: none"

    def fast(self) -> Found:
        """Draw with the fast paths that a start takes, and with none, from the same seed."""
        decoder = self._settings.decoder
        fast, plain = self._render(self.recipe, decoder), self._render(self.recipe, decoder, accelerate=False)
        return self._compare("fast", {"as started": fast, "plain": plain})

    def samplers(self) -> Found:
        """Draw with every recipe that samples this checkpoint."""
        name, decoder = self.recipe.checkpoint_name, self._settings.decoder
        recipes = [recipe for recipe in RECIPES.values() if recipe.checkpoint_name == name]
        clips = {recipe.name: self._render(recipe, decoder) for recipe in recipes}
        write_contact_sheet(clips, self._folder / "samplers.png")
        flat = [name for name, frames in clips.items() if _is_flat(frames)]
        if flat:
            return Verdict.FALLS_SHORT, f"frames of one colour: {', '.join(flat)}"
        return Verdict.HOLDS, f"drew with {', '.join(clips)}; which is better is for the eye to say"

    def decoders(self) -> Found:
        """Decode with every decoder that the recipe offers."""
        clips, missing = {}, []
        for decoder in self.recipe.decoders:
            try:
                clips[str(decoder)] = self._render(self.recipe, decoder)
            except WeightsMissingError as error:
                missing.append(error.detail)
        if not clips:
            return Verdict.NOT_CHECKED, "; ".join(missing)
        verdict, detail = self._compare("decoders", clips)
        if missing and verdict is Verdict.HOLDS:
            return Verdict.NOT_CHECKED, f"{detail}; {'; '.join(missing)}"
        return verdict, detail

    def _compare(self, name: str, clips: Mapping[str, Frames]) -> Found:
        """Compare the first clip with each other one."""
        write_contact_sheet(clips, self._folder / f"{name}.png")
        (first, frames), *others = clips.items()
        nearness = {other: psnr_db(frames, seen) for other, seen in others}
        parts = [
            f"{first} against {other}: "
            + (
                "the same pixels"
                if near == float("inf")
                else f"PSNR {near:.1f} dB, SSIM {ssim(frames, clips[other]):.3f}"
            )
            for other, near in nearness.items()
        ]
        if any(near < LEAST_PSNR_DB for near in nearness.values()):
            return Verdict.FALLS_SHORT, f"{'; '.join(parts)}; at least {LEAST_PSNR_DB:g} dB is asked"
        if _is_flat(frames):
            return Verdict.FALLS_SHORT, f"{first}: frames of one colour"
        return Verdict.HOLDS, "; ".join(parts) or f"{first} is the only one offered"

    def _render(self, recipe: Recipe, decoder: Decoder, *, accelerate: bool | None = None) -> Frames:
        """Return the frames of the known prompt and seed."""
        settings = self._settings
        accelerate = settings.accelerate if accelerate is None else accelerate
        key = (recipe.name, decoder, accelerate)
        # The plain clip of the same recipe is drawn by an engine of its own, also where no fast path is taken.
        if key not in self._frames:
            checkpoint = locate_with_decoder(recipe, decoder, settings.models_dir)
            engine = self._start(recipe, checkpoint, device=settings.device, accelerate=accelerate)
            if key == (self.recipe.name, settings.decoder, settings.accelerate):
                self._taken, self._refused = engine.acceleration.names, engine.refused
                self._loaded_from = engine.components.folder
            self._frames[key] = _frames_of(engine, decoder, checkpoint.revision)
            del engine
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        return self._frames[key]


ENGINE_ROWS: Final[Mapping[str, Callable[[EngineRows], Found]]] = {
    "versions": EngineRows.versions,
    "weights": EngineRows.weights,
    "device": EngineRows.device,
    "fast": EngineRows.fast,
    "samplers": EngineRows.samplers,
    "decoders": EngineRows.decoders,
}
"""Every row, in the order in which they are checked."""


def _frames_of(engine: Engine, decoder: Decoder, revision: str) -> Frames:
    request = GenerateRequest(
        prompt=PROMPT, seed=SEED, duration=engine.recipe.max_frames // engine.recipe.fps
    )
    spec = plan(request, engine.recipe, model_revision=revision, seed=SEED, decoder=decoder)
    embeddings, negative = engine.embed(spec)
    latents = engine.denoise(spec, embeddings, negative, _ignore_progress)
    return np.concatenate(list(engine.frames(latents)))


def _ignore_progress(stage: Stage, step: int = 0, total_steps: int = 0) -> None:
    """A `Report` for a caller that follows no progress."""


def _is_flat(frames: Frames) -> bool:
    return max(float(frame.std(axis=(0, 1)).max()) for frame in frames) < FLAT_STD


def _installed(name: str) -> str | None:
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return None


def _device(setting: str) -> str:
    if setting == "cpu" or not torch.cuda.is_available():
        return f"CPU {platform.machine()}, {usable_cores()} cores, no GPU used"
    card = torch.cuda.get_device_properties(0)
    return f"{card.name}, {card.total_memory / 1024**3:.1f} GiB, CUDA {torch.version.cuda}"
