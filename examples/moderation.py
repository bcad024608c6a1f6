"""What the bot refuses to order: a blocklist, matched on what a line looks like and not on how it is typed.

    rules = Blocklist.read(Path("blocklist.txt"), Path("my-own-words.txt"))
    rules.refuses("a n.u.d.e statue")         True

A listed word is found in any case, in look-alike letters of other scripts, with repeated letters, with digits for letters,
and with spaces or punctuation between its letters. It is found as a whole word: "Scunthorpe" and "cockatiel" are no
matches. A list has one entry a line: a word, words in order, or a stem with `*` at its end. `#` begins a comment, and
an entry under a line `[rot13]` is written in ROT13, so that nobody reads slurs by accident.

No list is complete, and a model may draw what no word said. For a show in front of strangers: a person watches.
"""

import codecs
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

SHIPPED = Path(__file__).with_name("blocklist.txt")
LEAST_LATIN = 0.5
LONGEST_RUN = 40

# Look-alikes of Latin letters in Cyrillic, Greek and Armenian, small capitals and others: those of Unicode's
# confusables.txt (UTS 39) that a keyboard or a phone offers. Full-width, mathematical and accented letters become
# plain by NFKD alone.
_LOOK_ALIKES = str.maketrans(
    "авсԁеһіјкӏмнорԛгѕтхуѵԝзьпиαβεγικνορτυχωηօսհոցաᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢıłøđħɑɡɩʟŋſ",
    "abcdehijklmhopqrstxyvwzbnuabeyiknoptuxwnouhngwabcdefghijklmnoprstuvwyzilodhagilns",
)
_TYPED_AS = {
    "a": "a4@", "b": "b8", "e": "e3", "g": "g9", "i": "i1!|l", "l": "l1|", "o": "o0", "s": "s5$", "t": "t7+", "z": "z2",
}  # fmt: skip
_SYMBOLS = "@!|$+"


class Blocklist:
    """Words that are not ordered."""

    def __init__(self, entries: Iterator[str] | list[str] = ()) -> None:
        self.patterns = [_pattern_of(entry) for entry in entries]

    @classmethod
    def read(cls, *files: Path) -> "Blocklist":
        """Return the entries of all files together."""
        return cls([entry for file in files for entry in _entries(file)])

    def add(self, entry: str) -> None:
        """Refuse one more word from now on."""
        self.patterns.append(_pattern_of(entry))

    def refuses(self, text: str) -> bool:
        """Return whether *text* holds a listed word."""
        return any(pattern.search(view) for view in _views(text) for pattern in self.patterns)


def is_foreign(text: str) -> bool:
    """Return whether most letters of *text* are of another script than Latin: the model was trained on English."""
    letters = [character for character in text if character.isalpha()]
    latin = sum(
        unicodedata.name(letter, "").startswith(("LATIN", "FULLWIDTH LATIN", "MATHEMATICAL"))
        for letter in letters
    )
    return bool(letters) and latin < LEAST_LATIN * len(letters)


def _entries(file: Path) -> Iterator[str]:
    hidden = False
    for line in file.read_text(encoding="utf-8").splitlines():
        entry = line.partition("#")[0].strip()
        if entry in ("[rot13]", "[plain]"):
            hidden = entry == "[rot13]"
        elif entry:
            yield codecs.decode(entry, "rot13") if hidden else entry


def _pattern_of(entry: str) -> re.Pattern[str]:
    words = [_word_pattern(word) for word in _plain(entry).split()]
    return re.compile(rf"(?<!\S){' '.join(words)}(?!\S)")


def _word_pattern(word: str) -> str:
    stem = word.removesuffix("*")
    letters = re.findall(r"(.)(\1*)", stem)  # each letter, and how often it is repeated in the word itself
    typed = (rf"[{re.escape(_TYPED_AS.get(letter, letter))}]{{{1 + len(more)},}}" for letter, more in letters)
    needs_a_letter = r"(?=\S*[^\W\d_])" if stem.isalpha() else ""
    return needs_a_letter + "".join(typed) + (r"\S*" if word.endswith("*") else "")


def _plain(text: str) -> str:
    """Return *text* in lower-case Latin letters, as far as it looks like them."""
    spread = unicodedata.normalize("NFKD", text).casefold()
    spread = "".join(
        character for character in spread if unicodedata.category(character) not in ("Mn", "Me", "Cf", "Cc")
    )
    return spread.translate(_LOOK_ALIKES)


def _views(text: str) -> Iterator[str]:
    """Yield *text* as words, in the ways that a reader might join its characters."""
    plain = _plain(re.sub(r"\s", " ", text))
    for kept in ("", _SYMBOLS):
        words = [re.sub(rf"[^\w{re.escape(kept)}]|_", "", word) for word in plain.split()]
        yield " ".join(word for word in words if word)
        yield " ".join(_joined(words))
    yield " ".join(re.sub(r"[^\w]|_", " ", plain).split())


def _joined(words: list[str]) -> Iterator[str]:
    """Yield what neighbours of one or two characters spell together: of `a s e x y cat` also `sexy`."""
    run: list[str] = []
    for word in [*words, "end"]:
        if 0 < len(word) <= 2:
            run.append(word)
            continue
        run = run[:LONGEST_RUN]
        for begin in range(len(run)):
            yield from ("".join(run[begin:end]) for end in range(begin + 2, len(run) + 1))
        run = []
