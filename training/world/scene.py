"""What a clip shows: its attributes, their values, and the numbers that the shader renders them from.

Attributes are what a prompt can ask for and what the judge looks for. Combinations of them are split by
a rule, so that evaluation asks for combinations that training never rendered.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from training.world.palette import CLOTHES, EYES, FUR, HAIR, Colour

SCENES = ("meadow", "beach", "city", "forest", "mountains", "shrine")
TIMES_OF_DAY = ("day", "sunset", "night")
WEATHERS = ("clear", "rain", "snow", "petals", "leaves", "fireflies")
CHARACTERS = ("nobody", "girl", "boy", "cat")
SHOTS = ("full body", "close-up")
ACTIONS = ("stand", "walk", "run", "wave", "jump")
HAIR_STYLES = ("long", "short", "twintails", "ponytail")
EXPRESSIONS = ("neutral", "smile", "talking", "happy")
CAMERAS = ("still", "pan left", "pan right", "zoom in")
FACE_FAULTS = (
    "none",
    "left eye missing",
    "right eye missing",
    "no eyes",
    "uneven eyes",
    "merged eyes",
)

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "scene": SCENES,
    "time_of_day": TIMES_OF_DAY,
    "weather": WEATHERS,
    "character": CHARACTERS,
    "shot": SHOTS,
    "action": ACTIONS,
    "hair_colour": tuple(HAIR),
    "clothes_colour": tuple(CLOTHES),
    "fur_colour": tuple(FUR),
    "hair_style": HAIR_STYLES,
}
"""Every attribute that is judged, with its values; a label is an index into them, -1 where it does not apply."""

PARAMETERS = (
    "SCENE", "TIME_OF_DAY", "WEATHER", "CHARACTER", "CLOSE_UP", "ACTION", "FACING", "HAIR_STYLE",
    "HAIR_R", "HAIR_G", "HAIR_B", "CLOTHES_R", "CLOTHES_G", "CLOTHES_B", "EYE_R", "EYE_G", "EYE_B",
    "OUTFIT", "CENTRE", "SIZE", "PHASE", "CAMERA", "SEED", "GROUND", "EXPRESSION", "WIND", "SUN", "GATE",
    "BLINK_START", "BLINK_EVERY", "SCROLL", "FACE_FAULT",
)  # fmt: skip
"""Names of the shader's parameters, in order."""

Parameters = np.ndarray[tuple[int, ...], np.dtype[np.float32]]

HELD_OUT_MODULUS = 11
"""One combination in eleven is held out of training."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One clip's content. Colours are names in the palette; those of what is absent mean nothing."""

    scene: str
    time_of_day: str
    weather: str
    character: str
    close_up: bool
    action: str
    hair_style: str
    hair_colour: str
    clothes_colour: str
    eye_colour: str
    fur_colour: str
    separates: bool
    """Uniform rather than dress for a girl, striped rather than plain for a boy."""
    expression: str
    camera: str
    faces_right: bool

    @property
    def is_human(self) -> bool:
        """Whether there is hair and clothing to speak of."""
        return self.character in ("girl", "boy")

    @property
    def is_held_out(self) -> bool:
        """Whether this combination belongs to the evaluation."""
        scene = SCENES.index(self.scene)
        weather = WEATHERS.index(self.weather)
        if self.is_human:
            hair, clothes = list(HAIR).index(self.hair_colour), list(CLOTHES).index(self.clothes_colour)
            return (hair + 2 * clothes + 3 * scene) % HELD_OUT_MODULUS == 0
        if self.character == "cat":
            return (list(FUR).index(self.fur_colour) + 2 * scene + 3 * weather) % HELD_OUT_MODULUS == 0
        return (scene + 2 * TIMES_OF_DAY.index(self.time_of_day) + 3 * weather) % HELD_OUT_MODULUS == 0

    def value_of(self, attribute: str) -> str | None:
        """Return the value of a judged attribute, or None where it does not apply."""
        if attribute in ("scene", "time_of_day", "weather", "character"):
            return str(getattr(self, attribute))
        if self.character == "nobody":
            return None
        if attribute == "shot":
            return SHOTS[self.close_up]
        if attribute == "action":
            return self.action
        applies = {
            "hair_colour": self.is_human,
            "clothes_colour": self.is_human,
            "fur_colour": self.character == "cat",
            "hair_style": self.character == "girl",
        }
        return str(getattr(self, attribute)) if applies[attribute] else None

    def labels(self) -> list[int]:
        """Return one index per attribute, in the order of `ATTRIBUTES`; -1 where it does not apply."""
        values = ((self.value_of(name), choices) for name, choices in ATTRIBUTES.items())
        return [-1 if value is None else choices.index(value) for value, choices in values]


def sample_scene(rng: random.Random, *, held_out: bool | None = False) -> Scene:
    """Sample a scene.

    Args:
        rng: Source of chance.
        held_out: True for evaluation's combinations, False for training's, None for either.
    """
    while True:
        scene = _sample(rng)
        if held_out is None or scene.is_held_out == held_out:
            return scene


def _sample(rng: random.Random) -> Scene:
    def choose(values: tuple[str, ...], *weights: float) -> str:
        return rng.choices(values, weights or None)[0]

    weather = choose(WEATHERS, 0.34, 0.16, 0.16, 0.16, 0.10, 0.08)
    time_of_day = "night" if weather == "fireflies" else choose(TIMES_OF_DAY, 0.38, 0.31, 0.31)
    character = choose(CHARACTERS, 0.06, 0.50, 0.24, 0.20)
    action = choose(ACTIONS, 0.20, 0.25, 0.18, 0.22, 0.15)
    if character == "cat" and action == "wave":
        action = "walk"
    travels = character != "nobody" and action in ("walk", "run")
    return Scene(
        scene=choose(SCENES),
        time_of_day=time_of_day,
        weather=weather,
        character=character,
        close_up=character != "nobody" and rng.random() < 0.33,
        action=action,
        hair_style=choose(HAIR_STYLES) if character == "girl" else "short",
        hair_colour=choose(tuple(HAIR)),
        clothes_colour=choose(tuple(CLOTHES)),
        eye_colour=choose(tuple(EYES)),
        fur_colour=choose(tuple(FUR)),
        separates=rng.random() < 0.4,
        expression=choose(EXPRESSIONS, 0.3, 0.4, 0.2, 0.1),
        camera="still" if travels else choose(CAMERAS, 0.64, 0.1, 0.1, 0.16),
        faces_right=rng.random() < 0.5,
    )


def parameters_of(scene: Scene, rng: random.Random, *, face_fault: str = "none") -> Parameters:
    """Return the shader's parameters for *scene*, with everything that it leaves open sampled from *rng*.

    Returns:
        float32 (len(PARAMETERS),).
    """
    hair = FUR[scene.fur_colour] if scene.character == "cat" else HAIR[scene.hair_colour]
    colours = (*_vary(hair, rng), *_vary(CLOTHES[scene.clothes_colour], rng), *EYES[scene.eye_colour])
    reach = 0.12 if scene.close_up else 0.32
    values = {
        "SCENE": SCENES.index(scene.scene),
        "TIME_OF_DAY": TIMES_OF_DAY.index(scene.time_of_day),
        "WEATHER": WEATHERS.index(scene.weather),
        "CHARACTER": CHARACTERS.index(scene.character),
        "CLOSE_UP": scene.close_up,
        "ACTION": ACTIONS.index(scene.action),
        "FACING": 1 if scene.faces_right else -1,
        "HAIR_STYLE": HAIR_STYLES.index(scene.hair_style),
        **dict(zip(PARAMETERS[8:17], colours, strict=True)),
        "OUTFIT": scene.separates,
        "CENTRE": 6 / 7 + rng.uniform(-reach, reach),
        "SIZE": rng.uniform(1.05, 1.35) if scene.close_up else rng.uniform(0.70, 0.80),
        "PHASE": rng.uniform(0, 6.28),
        "CAMERA": CAMERAS.index(scene.camera),
        "SEED": rng.randrange(400) * 0.37,
        "GROUND": rng.uniform(0.90, 0.95),
        "EXPRESSION": EXPRESSIONS.index(scene.expression),
        "WIND": rng.uniform(0.3, 1),
        "SUN": rng.random(),
        "GATE": rng.random(),
        "BLINK_START": rng.uniform(0, 4),
        "BLINK_EVERY": rng.uniform(2.0, 3.4),
        "SCROLL": rng.uniform(0, 3),
        "FACE_FAULT": FACE_FAULTS.index(face_fault),
    }
    return np.array([float(values[name]) for name in PARAMETERS], np.float32)


def _vary(colour: Colour, rng: random.Random, spread: float = 0.03) -> tuple[float, ...]:
    return tuple(min(1.0, max(0.0, level + rng.uniform(-spread, spread))) for level in colour)
