"""What the maker of a clip says about it: where the clip differs from what was asked for, and why. Nothing failed.

A job's record has a list of notes. `notes_on` writes those that are known when the request comes; a renderer adds its
own (`RenderedClip.notes`). The codes are stable names, in one place; page, command line and bot show the detail.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from anime_studio.core.crop import Crop
from anime_studio.core.demo_words import unknown_words
from anime_studio.core.recipes import Recipe
from common.schemas import ClipSpec, Note

UNKNOWN_WORDS: Final = "unknown_words"
"""The recipe's world is small and does not hold these words of the prompt."""
LENGTH_CHANGED: Final = "length_changed"
"""The clip is noticeably longer than asked: its frames come in groups of four."""
CROPPED: Final = "cropped"
"""The clip's shape is not the one that the model draws, so rows or columns were cut off."""

PROMPT_CUT: Final = "prompt_cut"
"""The model reads fewer tokens than the prompt has."""
PATHS_REFUSED: Final = "paths_refused"
"""The device refused fast paths, so the clip took longer."""
WEIGHTS_SWAPPED: Final = "weights_swapped"
"""The weights are others than those of the snapshot."""
WEIGHTS_REFUSED: Final = "weights_refused"
"""The weights that the file `in_use` names cannot be used, so older ones made the clip."""
ON_WEIGHTS: Final = frozenset({WEIGHTS_SWAPPED, WEIGHTS_REFUSED})

MOST_WORDS: Final = 6
LONGEST_WORD_CHARS: Final = 24
WORTH_A_NOTE_S: Final = 0.1


def notes_on(spec: ClipSpec, recipe: Recipe) -> tuple[Note, ...]:
    """Return what can be said about a clip of *spec* before it is made."""
    notes = (_unknown_words(spec, recipe), _length_changed(spec), _cropped(spec))
    return tuple(note for note in notes if note is not None)


def prompt_cut(num_tokens: int, max_tokens: int) -> Note | None:
    """Return a note on a prompt of *num_tokens*, of which the model reads *max_tokens*."""
    if num_tokens <= max_tokens:
        return None
    detail = f"the prompt has {num_tokens} tokens, the model reads {max_tokens}: the end of the prompt has no effect"
    return Note(code=PROMPT_CUT, detail=detail)


def paths_refused(names: Sequence[str]) -> Note | None:
    """Return a note on the fast paths, by name, that the device refused."""
    if not names:
        return None
    return Note(code=PATHS_REFUSED, detail=f"slower than usual: this device refused {', '.join(names)}")


def weights_swapped(revision: str) -> Note:
    """Return a note on weights of *revision* that came after the snapshot."""
    detail = f"new weights ({revision}); starts are slower until the next deploy"
    return Note(code=WEIGHTS_SWAPPED, detail=detail)


def weights_refused(detail: str, revision: str) -> Note:
    """Return a note on a clip of *revision* though other weights were named, which *detail* says cannot be used."""
    return Note(
        code=WEIGHTS_REFUSED,
        detail=f"made with the weights {revision}; the new ones cannot be used: {detail}",
    )


def _unknown_words(spec: ClipSpec, recipe: Recipe) -> Note | None:
    if recipe.world is None:
        return None
    unknown, knows_others = unknown_words(spec.prompt)
    if not unknown and knows_others:
        return None
    words = ", ".join(_shortened(word) for word in unknown[:MOST_WORDS])
    if len(unknown) > MOST_WORDS:
        words += f" and {len(unknown) - MOST_WORDS} more"
    if knows_others:
        detail = f"{recipe.name} does not know: {words}. It makes the rest of the prompt"
    elif unknown:
        detail = f"{recipe.name} knows no word of this ({words}). It makes some scene of its own"
    else:
        detail = f"{recipe.name} finds nothing that it knows in this prompt. It makes some scene of its own"
    return Note(code=UNKNOWN_WORDS, detail=detail)


def _length_changed(spec: ClipSpec) -> Note | None:
    seconds = spec.num_frames / spec.fps
    if seconds - spec.duration < WORTH_A_NOTE_S:
        return None
    return Note(
        code=LENGTH_CHANGED,
        detail=f"asked for {spec.duration:g} s; the clip has {seconds:g} s, the next length that the model can make",
    )


def _cropped(spec: ClipSpec) -> Note | None:
    crop = Crop.of(spec)
    if not crop:
        return None
    parts = []
    if crop.top + crop.bottom:
        rows = f"{crop.top + crop.bottom} of {spec.native_height} rows"
        parts.append(f"{rows} ({crop.top} at the top, {crop.bottom} at the bottom)")
    if crop.left + crop.right:
        columns = f"{crop.left + crop.right} of {spec.native_width} columns"
        parts.append(f"{columns} ({crop.left} at the left, {crop.right} at the right)")
    drawn = f"drawn at {spec.native_width}x{spec.native_height}"
    return Note(
        code=CROPPED, detail=f"{drawn} and made larger; cropped to {spec.resolution}: {', '.join(parts)}"
    )


def _shortened(word: str) -> str:
    return word if len(word) <= LONGEST_WORD_CHARS else word[: LONGEST_WORD_CHARS - 1] + "…"
