"""What tests of the engine ask for and listen to."""

from anime_studio.core.clip import plan
from anime_studio.core.recipes import TINY_RANDOM, Recipe
from common.schemas import ClipSpec, GenerateRequest, Stage


def spec_of(recipe: Recipe = TINY_RANDOM, **request: object) -> ClipSpec:
    wanted = {"prompt": "a cat on a roof", "duration": 0.5, "seed": 7} | request
    return plan(GenerateRequest.model_validate(wanted), recipe, model_revision="random-0", seed=0)


class Reports:
    """Keeps what was reported; raises `stop` when stage and step are reached."""

    def __init__(self, stop: Exception | None = None, at: tuple[Stage, int] | None = None) -> None:
        self.seen: list[tuple[Stage, int, int]] = []
        self._stop, self._at = stop, at

    def __call__(self, stage: Stage, step: int = 0, total_steps: int = 0) -> None:
        self.seen.append((stage, step, total_steps))
        if self._stop is not None and self._at == (stage, step):
            raise self._stop
