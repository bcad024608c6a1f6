"""Prompts for evaluation: sentences that no training caption has, about combinations that training never rendered.

The words are known, the frames around them are not. Every attribute that applies is named plainly, so that
each can be judged.
"""

from __future__ import annotations

import random

from training.world.captions import Caption
from training.world.scene import Scene, sample_scene

_WHERE = {
    "meadow": ("over a meadow of flowers", "across the green grassy hills"),
    "beach": ("down at the sandy beach", "where the ocean meets the sand"),
    "city": ("through the city streets", "below the tall city buildings"),
    "forest": ("somewhere in the forest", "beneath the trees of the forest"),
    "mountains": ("at the lake below the mountains", "near the mountains and their lake"),
    "shrine": ("beside the red torii of a shrine", "outside an old Japanese shrine"),
}
_WHEN = {
    "day": ("one sunny day", "in the middle of the day"),
    "sunset": ("just at sunset", "on a warm evening at sunset"),
    "night": ("deep in the night", "one starry night"),
}
_AIR = {
    "clear": ("clear skies", "the weather is clear"),
    "rain": ("and it keeps raining", "rain all around"),
    "snow": ("and it keeps snowing", "snow all around"),
    "petals": ("and cherry petals drift by", "sakura petals everywhere"),
    "leaves": ("and autumn leaves drift by", "autumn leaves everywhere"),
    "fireflies": ("and fireflies drift by", "fireflies everywhere"),
}
_DOING = {
    "stand": "standing there",
    "walk": "out walking",
    "run": "running along",
    "wave": "waving to us",
    "jump": "jumping around",
}
_HAIR = {
    "long": "{c} hair that is long",
    "short": "{c} hair that is short",
    "twintails": "{c} twintails",
    "ponytail": "a {c} ponytail",
}
_FRAMES = (
    "{when}, {where}: {who} is {doing}, {air}",
    "my oc, {who}, {doing} {where} {when}, {air}",
    "{air}, {where}. {when} we meet {who}, {doing}",
    "can you do {who} {doing}? {where}, {when}, {air}",
    "{who}; {doing}; {where}; {when}; {air}",
)


def write_held_out_prompts(count: int, seed: int) -> list[tuple[Scene, Caption]]:
    """Return *count* held-out scenes, each with its prompt and what the prompt names."""
    rng = random.Random(seed)
    scenes = [sample_scene(rng, held_out=True) for _ in range(count)]
    return [(scene, _write(scene, rng)) for scene in scenes]


def _write(scene: Scene, rng: random.Random) -> Caption:
    named = {"scene", "time_of_day", "weather", "character"}
    if scene.character != "nobody":
        named |= {"shot", "action"}
    if scene.is_human:
        named |= {"hair_colour", "clothes_colour"}
    if scene.character == "girl":
        named.add("hair_style")
    if scene.character == "cat":
        named.add("fur_colour")
    text = rng.choice(_FRAMES).format(
        when=rng.choice(_WHEN[scene.time_of_day]),
        where=rng.choice(_WHERE[scene.scene]),
        air=rng.choice(_AIR[scene.weather]),
        who=_who(scene, rng),
        doing="empty" if scene.character == "nobody" else _DOING[scene.action],
    )
    if scene.character != "nobody":
        text += ", face close-up" if scene.close_up else ", full body"
    return Caption(text[0].upper() + text[1:], frozenset(named))


def _who(scene: Scene, rng: random.Random) -> str:
    if scene.character == "nobody":
        return "a view without people"
    if scene.character == "cat":
        return f"a cat whose fur is {scene.fur_colour}"
    if scene.character == "girl":
        hair = _HAIR[scene.hair_style].format(c=scene.hair_colour)
        clothes = f"{scene.clothes_colour} {'school uniform' if scene.separates else 'dress'}"
    else:
        hair = f"{scene.hair_colour} hair"
        clothes = f"{scene.clothes_colour} {'shirt' if scene.separates else 'jacket'}"
    return rng.choice(
        (
            f"a {scene.character} who has {hair} and wears a {clothes}",
            f"a {scene.character} in her {clothes}, {hair}".replace("her", "his" if scene.character == "boy" else "her"),
        )
    )  # fmt: skip
