"""Where the field has a word, the source and the documents use it: docs/glossary.md. A home-made word fails here."""

import re
from functools import cache
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
READ = ("src/**/*.py", "src/**/*.md", "docs/**/*.md", "training/*.md", "*.md")
MAY_NAME_OLD_WORDS = {"CHANGELOG.md", "docs/glossary.md"}

WORDS = {
    r"(?<![a-z])stow(s|ed|ing|age)?(?![a-z])": "offload, sleep or wake up",
    r"(?<![a-z])restless|\bweights that rest\b|\blet (it|them) rest\b": "sleep",
    r"\bmain memory\b": "host memory",
    r"\blocked (host |main )?memory\b|\blocked for a GPU\b": "pinned host memory",
    r"\blink's speed\b|\bover the link\b|\blink to (the|one) (card|device|GPU)\b|\b_?link_bytes": "PCIe",
    r"(?<![a-z])hand(s|ed|ing)?[ _]((it|its|the|that|this|their)( \w+)? )?back(?![a-z])|handback": "requeue",
    r"(?<![a-z])courier": "publisher",
    r"(?<![a-z])pok(e|es|ed|ing)(?![a-z])": "notify",
    r"(?<![a-z])levers?(?![a-z])": "option",
    r"\bprepared forms?\b|\b(damaged|stale|whole|packed) form\b|(?<![a-z])open_form\b": "prepared checkpoint",
    r"\blessons\.py\b|\btraining\.lessons\b": "judge_training",
    r"(?<![a-z])(?<!command that )mend(s|ed|ing)?(?![a-z])": "fix",  # but for two sentences of openapi.json
    r"(?-i:Desk\b|_desk\b)": "worker store",
    r"\bkeeps? house\b|\bhouse-?keep": "sweep",
    r"\bsteps? to e4m3\b": "quantize",
    r"\bbetween the matrices\b": "elementwise operations",
    r"\b(loans?|lent)\b": "the card, the versions, the commit and the command of a measurement",
    r"\b(design|API) study\b|\bdesign notes\b|\bdesign document\b": "a source that a reader can open",
}
NAMES = {
    "tell tells told say": "log, report or detail",
    "kept": "stored",
    "draw draws drew drawn": "render or generate",
    "pace": "speeds",
    "forms": "prepared",
}
"""Parts of a class's or function's name. As words of a sentence they are fine."""


@cache
def lines() -> list[tuple[str, str]]:
    """Return every line of the source and the documents, its place first."""
    paths = {
        str(path.relative_to(PROJECT)): path for pattern in READ for path in sorted(PROJECT.glob(pattern))
    }
    return [
        (f"{name}:{number}", line)
        for name, path in paths.items()
        if name not in MAY_NAME_OLD_WORDS
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    ]


def found(pattern: str) -> str:
    return "\n".join(
        f"{place}: {line.strip()}" for place, line in lines() if re.search(pattern, line, re.IGNORECASE)
    )


@pytest.mark.parametrize(("pattern", "word"), WORDS.items(), ids=WORDS.values())
def test_no_home_made_word(pattern, word):
    assert not (places := found(pattern)), f"say {word}:\n{places}"


@pytest.mark.parametrize(("words", "word"), NAMES.items(), ids=NAMES.values())
def test_no_home_made_name(words, word):
    pattern = rf"\b(def|class) \w*(?<![a-z])({words.replace(' ', '|')})(?![a-z])"
    assert not (places := found(pattern)), f"say {word}:\n{places}"


def test_a_line_of_a_document_fits_a_screen():
    table_picture_or_command = ("|", "!", "curl ")
    assert not [
        place
        for place, line in lines()
        if ".md:" in place and len(line) > 120 and not line.startswith(table_picture_or_command)
    ]
