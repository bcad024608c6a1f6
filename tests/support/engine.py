"""An engine of random weights, what tests ask of it, and what it reports."""

import shutil
from pathlib import Path

import torch

from anime_studio.checkpoints.store import Checkpoint
from anime_studio.core.clip import plan
from anime_studio.core.recipes import TINY_RANDOM, Recipe
from anime_studio.engine.acceleration import PLAIN, Acceleration
from anime_studio.engine.embeddings_cache import EmbeddingsCache
from anime_studio.engine.engine import Engine
from anime_studio.engine.startup import load_engine
from common.schemas import ClipSpec, GenerateRequest, Stage


def tiny_engine(folder: Path, acceleration: Acceleration = PLAIN, cache_dir: Path | None = None) -> Engine:
    device, cache = torch.device("cpu"), EmbeddingsCache(folder=cache_dir)
    return load_engine(TINY_RANDOM, Checkpoint.at(folder), device, acceleration=acceleration, cache=cache)


def checkpoint_in(models: Path, tiny_checkpoint: Path) -> Checkpoint:
    """Copy the tiny checkpoint into the models folder *models*."""
    return Checkpoint.at(shutil.copytree(tiny_checkpoint, models / "tiny-random" / "random-0"))


def flip(path: Path, at: int = -1) -> None:
    """Flip one bit of one byte."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def cut(path: Path, count: int = 8) -> None:
    """Remove the last *count* bytes."""
    path.write_bytes(path.read_bytes()[:-count])


def spec_of(recipe: Recipe = TINY_RANDOM, **request: object) -> ClipSpec:
    wanted = {"prompt": "a cat on a roof", "duration": 0.5, "seed": 7} | request
    return plan(GenerateRequest.model_validate(wanted), recipe, model_revision="random-0", seed=0)


class Reports:
    """Stores what was reported; raises *stop* when stage and step are reached."""

    def __init__(self, stop: Exception | None = None, at: tuple[Stage, int] | None = None) -> None:
        self.seen: list[tuple[Stage, int, int]] = []
        self._stop, self._at = stop, at

    def __call__(self, stage: Stage, step: int = 0, total_steps: int = 0) -> None:
        self.seen.append((stage, step, total_steps))
        if self._stop is not None and self._at == (stage, step):
            raise self._stop
