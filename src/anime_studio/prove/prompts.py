"""The prompts that `prove` draws: one of our own, or those of a file, one a line."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import ValidationError

from anime_studio.core.errors import ConfigurationError
from common.schemas import PROMPT_MAX_CHARS, GenerateRequest

PROMPTS: Final = ("a small cat sits on a roof at sunset",)
MOST_PROMPTS: Final = 20
_MOST_BYTES: Final = MOST_PROMPTS * (4 * PROMPT_MAX_CHARS + 2)
"""A character takes four bytes at most in UTF-8, and the end of a line two."""


def read_prompts(file: Path) -> tuple[str, ...]:
    """Return the lines of *file*, 1 to `MOST_PROMPTS` of them.

    Raises:
        ConfigurationError: It cannot be read, has too many lines or none, or one that is empty, too long or otherwise
            no prompt; the detail names the line.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(_MOST_BYTES + 1)
        lines = content.decode("utf-8").splitlines()
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        if len(content) > _MOST_BYTES:  # cut within a character
            raise _too_long(file) from None
        raise ConfigurationError(
            f"{file} is not UTF-8; --prompts takes a text file, one prompt a line"
        ) from None
    if len(content) > _MOST_BYTES or len(lines) > MOST_PROMPTS:
        raise _too_long(file)
    if not lines:
        raise ConfigurationError(f"{file} is empty; write one prompt a line")
    for number, line in enumerate(lines, start=1):
        if reason := _wrong(line):
            raise ConfigurationError(f"line {number} of {file} {reason}")
    return tuple(lines)


def _too_long(file: Path) -> ConfigurationError:
    return ConfigurationError(
        f"{file} is too long: at most {MOST_PROMPTS} lines of {PROMPT_MAX_CHARS} characters, each line a prompt"
    )


def _wrong(line: str) -> str | None:
    if not line.strip():
        return "is empty; remove it"
    if len(line) > PROMPT_MAX_CHARS:
        return f"has {len(line)} characters; a prompt has at most {PROMPT_MAX_CHARS}"
    try:
        GenerateRequest(prompt=line)
    except ValidationError as error:
        return f"is no prompt: {error.errors()[0]['msg']}"
    return None
