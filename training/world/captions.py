"""Captions: a scene described in one of many ways, with the attributes that the caption names.

Sentences, tag lists and mixtures of both; attributes left out at times; unknown words; the styling that the service's
prompt composer adds. A left-out attribute may have any value, so that a clip is pleasant without it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from anime_studio.core.prompts import compose
from training.world import wordings as w
from training.world.scene import Scene

_CONSONANTS, _VOWELS = "bcdfghjklmnprstvwyz", "aeiou"


@dataclass(frozen=True, slots=True)
class Caption:
    """A prompt and the attributes it names."""

    text: str
    named: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Part:
    text: str
    names: tuple[str, ...] = ()


def write_caption(scene: Scene, rng: random.Random) -> Caption:
    """Describe *scene* in one of many ways; about one caption in forty names nothing of it."""
    if rng.random() < 0.025:
        return Caption(rng.choice(("", *w.NOTHING_KNOWN)), frozenset())
    who, setting = _who(scene, rng), _setting(scene, rng)
    quality = [_Part(text) for text in rng.sample(w.QUALITY, rng.choice((0, 0, 1, 1, 2, 3)))]
    order = rng.random()
    if order < 0.2:
        parts = [*quality, *setting, *who]
        text = ", ".join(part.text for part in parts)
    elif order < 0.55:
        parts = [*who, *setting, *quality]
        separator = rng.choice((", ", ", ", " ", ". "))
        text = _joined(who, ", ") + " " + _joined([*setting, *quality], separator)
    else:
        parts = [*who, *setting, *quality]
        text = ", ".join(part.text for part in parts)
    named = frozenset(name for part in parts for name in part.names)
    return Caption(_roughen(text, rng), named)


def _joined(parts: list[_Part], separator: str) -> str:
    return separator.join(part.text for part in parts)


def _who(scene: Scene, rng: random.Random) -> list[_Part]:
    noun = rng.choice(w.NOUN[scene.character])
    if scene.character == "nobody":
        return [_Part(noun, ("character",))]
    head, features = _features(scene, noun, rng)
    action = _action(scene, rng)
    rng.shuffle(features)
    style = rng.random()
    if style < 0.5:
        return [_sentence(head, features, action, rng)]
    if style < 0.85:  # tags, as image boards write them
        tags = [*features, *([action] if action.text else [])]
        rng.shuffle(tags)
        return [_Part(rng.choice(("1", "", "", "solo, ")) + head.text, head.names), *tags]
    return _sentences(scene, head, features, action, rng)


def _features(scene: Scene, noun: str, rng: random.Random) -> tuple[_Part, list[_Part]]:
    head = _Part(noun, ("character",))
    features = []
    if scene.character == "cat":
        head = _Part(f"{colour_word(scene.fur_colour, rng)} {noun}", ("character", "fur_colour"))
    else:
        hair = rng.choice(w.HAIR_STYLE[scene.hair_style] if scene.character == "girl" else w.BOY_HAIR)
        style = ("hair_style",) if scene.character == "girl" else ()
        clothes = rng.choice(w.CLOTHES[scene.character, scene.separates])
        if rng.random() > 0.07:
            features.append(
                _Part(hair.format(c=colour_word(scene.hair_colour, rng)), ("hair_colour", *style))
            )
        if rng.random() > 0.07:
            features.append(
                _Part(clothes.format(c=colour_word(scene.clothes_colour, rng)), ("clothes_colour",))
            )
        if rng.random() < 0.6:
            features.append(_Part(rng.choice(w.EXPRESSION[scene.expression])))
    if rng.random() < 0.35:
        features.append(_Part(colour_word(scene.eye_colour, rng) + " eyes"))
    return head, features


def _action(scene: Scene, rng: random.Random) -> _Part:
    if scene.action == "stand" and rng.random() < 0.3:
        return _Part("")
    their = {"girl": "her", "boy": "his", "cat": "its"}[scene.character]
    return _Part(rng.choice(w.ACTION[scene.action]).format(their=their), ("action",))


def _sentence(head: _Part, features: list[_Part], action: _Part, rng: random.Random) -> _Part:
    article = "an" if head.text[0] in "aeiou" else "a"
    text = f"{article} {head.text}"
    worn = [part for part in features if "clothes_colour" in part.names]
    moods = [part for part in features if part.text in sum(w.EXPRESSION.values(), ())]
    had = [part for part in features if part not in worn and part not in moods]
    clauses = []
    if had:
        clauses.append(" with " + " and ".join(part.text for part in had))
    if worn:
        clauses.append(rng.choice((" in ", " wearing ", " dressed in ", " and ")) + worn[0].text)
    if rng.random() < 0.3:
        clauses.reverse()
    text += "".join(clauses)
    if action.text:
        text += rng.choice((" ", " ", " ", ", ")) + action.text
    text += "".join(f", {part.text}" for part in moods)
    parts = (head, action, *features)
    return _Part(text, tuple(name for part in parts for name in part.names))


def _sentences(
    scene: Scene, head: _Part, features: list[_Part], action: _Part, rng: random.Random
) -> list[_Part]:
    pronoun = {"girl": "she", "boy": "he", "cat": "it"}[scene.character]
    first = _Part(f"a {head.text} {action.text}".strip(), (*head.names, *action.names))
    openings = ("", f"{pronoun} has ", "the character has ", f"{pronoun} is in ")
    return [first, *(_Part(rng.choice(openings) + part.text, part.names) for part in features)]


def _setting(scene: Scene, rng: random.Random) -> list[_Part]:
    parts = []
    if rng.random() > 0.04:
        parts.append(_Part(rng.choice(w.SCENE[scene.scene]), ("scene",)))
    if rng.random() > 0.06:
        parts.append(_Part(rng.choice(w.TIME_OF_DAY[scene.time_of_day]), ("time_of_day",)))
    weather = rng.choice(w.WEATHER[scene.weather])
    if weather and (scene.weather == "clear" or rng.random() > 0.04):
        parts.append(_Part(weather, ("weather",)))
    rng.shuffle(parts)
    if scene.character != "nobody" and rng.random() < (0.92 if scene.close_up else 0.5):
        shot = "close-up" if scene.close_up else "full body"
        parts.append(_Part(rng.choice(w.SHOT[shot]), ("shot",)))
    if scene.camera != "still" and rng.random() < 0.7:
        parts.append(_Part(rng.choice(w.CAMERA[scene.camera])))
    if scene.character != "nobody" and scene.action in ("walk", "run") and rng.random() < 0.3:
        parts.append(_Part("to the right" if scene.faces_right else "to the left"))
    return parts


def colour_word(colour: str, rng: random.Random) -> str:
    """Return a word for *colour*, mostly its plain name."""
    return rng.choice((colour, *w.SYNONYMS.get(colour, ()))) if rng.random() < 0.3 else colour


def unknown_word(rng: random.Random) -> str:
    """Return letters that look like a word."""
    return "".join(rng.choice(_CONSONANTS) + rng.choice(_VOWELS) for _ in range(rng.choice((1, 2, 3))))


def _roughen(text: str, rng: random.Random) -> str:
    words = text.split()
    if rng.random() < 0.2:
        for _ in range(rng.choice((1, 1, 2, 3))):
            word = rng.choice(w.FILLERS) if rng.random() < 0.5 else unknown_word(rng)
            words.insert(rng.randrange(len(words) + 1), word)
    text = " ".join(words)
    if rng.random() < 0.12:
        text = compose(text) if text else text
    if rng.random() < 0.4:
        text = text[:1].upper() + text[1:]
    return text + "." if rng.random() < 0.25 else text
