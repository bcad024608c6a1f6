"""The rows that any machine with the engine can check: packages, weights, device, fast paths, samplers, decoders."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch

from anime_studio.checkpoints.decoders import locate_with_decoder
from anime_studio.checkpoints.prepared import prepare_again
from anime_studio.core.clip import plan
from anime_studio.core.decoders import Decoder
from anime_studio.core.errors import AnimeStudioError, OutOfMemoryError, WeightsMissingError
from anime_studio.core.recipes import RECIPES, Recipe, get_recipe
from anime_studio.engine.acceleration import Attention
from anime_studio.engine.engine import FLAT_STD, Engine
from anime_studio.engine.startup import start_engine
from anime_studio.prove.machine import device_in_words
from anime_studio.prove.pictures import Frames, psnr_db, ssim, write_contact_sheet
from anime_studio.prove.prompts import PROMPTS
from anime_studio.prove.rows import Found
from anime_studio.prove.versions import CONSTRAINTS, compare, installed_packages
from anime_studio.settings import Settings
from common.prove import Verdict
from common.schemas import GenerateRequest, Stage

SEED: Final = 7
LEAST_PSNR_DB: Final = 20.0
"""Chosen, not measured: two clips that differ by more show other things. The contact sheet is for the eye."""

INT8_ATTENTION: Final = f"attention={Attention.INT8}"

StartEngine = Callable[..., Engine]
SetupCommand = Callable[[Recipe, Decoder], str]


class EngineRows:
    """Checks rows with the real weights; a clip that two rows need is drawn once.

    Args:
        settings: Recipe, decoder, device and where the weights are.
        folder: Where the pictures are written.
        start: Starts an engine; another one in tests.
        constraints: The pinned versions; absent in an installed wheel.
        setup: Names the command that fetches a decoder; absent means that of this machine.
        prompt: What is drawn.
    """

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        *,
        start: StartEngine = start_engine,
        constraints: Path = CONSTRAINTS,
        setup: SetupCommand | None = None,
        prompt: str = PROMPTS[0],
    ) -> None:
        self.recipe = get_recipe(settings.recipe)
        self._settings, self._folder, self._start, self._constraints = settings, folder, start, constraints
        self._setup, self.prompt = setup, prompt
        self._frames: dict[tuple[str, Decoder, bool, bool], Frames] = {}
        self._taken: tuple[str, ...] = ()
        self._refused: tuple[str, ...] = ()
        self._loaded_from: Path | None = None

    def check(self, name: str) -> Found:
        """Check the row called *name* (one of `ENGINE_ROWS`)."""
        try:
            found = ENGINE_ROWS[name](self)
        except (WeightsMissingError, OutOfMemoryError) as error:
            return Found(Verdict.NOT_CHECKED, error.detail)
        except AnimeStudioError as error:
            return Found(Verdict.FALLS_SHORT, error.detail)
        sheet = self._folder / f"{name}.png"
        return replace(found, picture=sheet.name) if sheet.exists() else found

    def versions(self) -> Found:
        """Compare the installed packages with the pinned list."""
        return compare(installed_packages(), self._constraints)

    def weights(self) -> Found:
        """Hash every file, and see whether a prepared checkpoint is in use."""
        settings, recipe = self._settings, self.recipe
        checkpoint = locate_with_decoder(recipe, settings.decoder, settings.models_dir, hashes=True)
        self._render(recipe, settings.decoder)
        loaded = self._loaded_from
        detail = f"every byte of commit {checkpoint.revision} is as listed; loaded from {loaded.name if loaded else '?'}"
        if recipe.repo_id is not None and loaded == checkpoint.folder:
            return Found(Verdict.FALLS_SHORT, f"{detail}, which is not prepared: {prepare_again(checkpoint)}")
        return Found(Verdict.HOLDS, detail)

    def device(self) -> Found:
        """Name device, driver, and the fast paths taken and refused."""
        self._render(self.recipe, self._settings.decoder)
        taken = ", ".join(self._taken) or "none"
        where = device_in_words(self._settings.device)
        detail = f"{where}; torch {torch.__version__}; fast paths taken: {taken}"
        if self._refused:
            return Found(Verdict.FALLS_SHORT, f"{detail}; refused: {', '.join(self._refused)}")
        return Found(Verdict.HOLDS, f"{detail}; refused: none")

    def fast(self) -> Found:
        """Draw from one seed: with the fast paths of a start, without its 8-bit attention, and with no fast path."""
        decoder = self._settings.decoder
        clips = {"as started": self._render(self.recipe, decoder)}
        # A start takes it for every sparse recipe: the clip would be the same again.
        if INT8_ATTENTION in self._taken and self.recipe.sparse is None:
            clips["with bf16 attention"] = self._render(self.recipe, decoder, int8_attention=False)
        clips["plain"] = self._render(self.recipe, decoder, accelerate=False)
        return self._compare("fast", clips)

    def samplers(self) -> Found:
        """Draw with every recipe that samples this checkpoint."""
        name, decoder = self.recipe.checkpoint_name, self._settings.decoder
        recipes = [recipe for recipe in RECIPES.values() if recipe.checkpoint_name == name]
        clips = {recipe.name: self._render(recipe, decoder) for recipe in recipes}
        write_contact_sheet(clips, self._folder / "samplers.png")
        flat = [name for name, frames in clips.items() if _is_flat(frames)]
        if flat:
            return Found(Verdict.FALLS_SHORT, f"frames of one colour: {', '.join(flat)}")
        return Found(Verdict.HOLDS, f"drew with {', '.join(clips)}; which is better is for the eye to say")

    def decoders(self) -> Found:
        """Decode with every decoder that the recipe offers."""
        clips, missing = {}, []
        for decoder in self.recipe.decoders:
            try:
                clips[str(decoder)] = self._render(self.recipe, decoder)
            except WeightsMissingError as error:
                remedy = self._setup(self.recipe, decoder) if self._setup else ""
                missing.append(
                    f"decoder {decoder} is not there; fetch it with: {remedy}" if remedy else error.detail
                )
        if not clips:
            return Found(Verdict.NOT_CHECKED, "; ".join(missing))
        found = self._compare("decoders", clips)
        if missing and found.verdict is Verdict.HOLDS:
            return Found(Verdict.NOT_CHECKED, f"{found.detail}; {'; '.join(missing)}")
        return found

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
            return Found(Verdict.FALLS_SHORT, f"{'; '.join(parts)}; at least {LEAST_PSNR_DB:g} dB is asked")
        if _is_flat(frames):
            return Found(Verdict.FALLS_SHORT, f"{first}: frames of one colour")
        return Found(Verdict.HOLDS, "; ".join(parts) or f"{first} is the only one offered")

    def _render(
        self,
        recipe: Recipe,
        decoder: Decoder,
        *,
        accelerate: bool | None = None,
        int8_attention: bool = True,
    ) -> Frames:
        """Return the frames of the prompt and the known seed."""
        settings = self._settings
        accelerate = settings.accelerate if accelerate is None else accelerate
        key = (recipe.name, decoder, accelerate, int8_attention)
        # The plain clip of the same recipe is drawn by an engine of its own, also where no fast path is taken.
        if key not in self._frames:
            checkpoint = locate_with_decoder(recipe, decoder, settings.models_dir)
            if not int8_attention:  # a start takes it for a recipe that was trained with it
                recipe = replace(recipe, trained_with_8bit_attention=False)
            engine = self._start(recipe, checkpoint, device=settings.device, accelerate=accelerate)
            if key == (self.recipe.name, settings.decoder, settings.accelerate, True):
                self._taken, self._refused = engine.paths, engine.refused
                self._loaded_from = engine.components.folder
            self._frames[key] = _frames_of(engine, decoder, checkpoint.revision, self.prompt)
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


def _frames_of(engine: Engine, decoder: Decoder, revision: str, prompt: str) -> Frames:
    request = GenerateRequest(
        prompt=prompt, seed=SEED, duration=engine.recipe.max_frames // engine.recipe.fps
    )
    spec = plan(request, engine.recipe, model_revision=revision, seed=SEED, decoder=decoder)
    embeddings, negative = engine.embed(spec)
    latents = engine.denoise(spec, embeddings, negative, _ignore_progress)
    return np.concatenate(list(engine.frames(latents)))


def _ignore_progress(stage: Stage, step: int = 0, total_steps: int = 0) -> None:
    """A `Report` for a caller that follows no progress."""


def _is_flat(frames: Frames) -> bool:
    return max(float(frame.std(axis=(0, 1)).max()) for frame in frames) < FLAT_STD
