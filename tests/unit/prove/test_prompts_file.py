"""The prompts of a file: taken as they are, or refused with the line and the reason."""

import json
from pathlib import Path

import pytest

from anime_studio.core.errors import ConfigurationError
from anime_studio.engine.engine import Engine
from anime_studio.engine.startup import start_engine
from anime_studio.prove.account import Account
from anime_studio.prove.engine_rows import EngineRows
from anime_studio.prove.http_rows import HttpRows
from anime_studio.prove.memory import MemoryFile
from anime_studio.prove.prompts import MOST_PROMPTS, PROMPTS, read_prompts
from anime_studio.prove.rows import Found, Proof, Purse, Row
from anime_studio.settings import Settings
from common.prove import ProofReport, Verdict
from common.schemas import PROMPT_MAX_CHARS
from support.command_line import run
from support.engine import checkpoint_in


def test_each_line_is_a_prompt(tmp_path: Path):
    file = tmp_path / "prompts.txt"
    file.write_text("a fox in the snow\r\nune forêt, 雪\n", encoding="utf-8")
    assert read_prompts(file) == ("a fox in the snow", "une forêt, 雪")
    widest = ("😀" * PROMPT_MAX_CHARS,) * MOST_PROMPTS
    file.write_text("\r\n".join(widest) + "\r\n", encoding="utf-8", newline="")
    assert read_prompts(file) == widest


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty; write one prompt a line"),
        (b"a fox\n \na cat\n", "line 2 of .* is empty; remove it"),
        (b"a" * (PROMPT_MAX_CHARS + 1), f"line 1 of .* has {PROMPT_MAX_CHARS + 1} characters"),
        (b"a\n" * (MOST_PROMPTS + 1), f"at most {MOST_PROMPTS} lines"),
        (b"a" * 1_000_000, "too long"),
        ("é".encode() * 200_001, "too long"),
        (b"a fox \xff", "is not UTF-8"),
        (None, "cannot be read: No such file"),
    ],
    ids=["nothing", "blank line", "long line", "many lines", "huge", "huge, cut in a character", "bytes", "no file"],
)  # fmt: skip
def test_a_file_of_other_content_is_refused_in_words(tmp_path: Path, content: bytes | None, words: str):
    file = tmp_path / "prompts.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=words):
        read_prompts(file)


def test_the_command_ends_with_2_and_the_words(tmp_path: Path):
    (tmp_path / "prompts.txt").write_text("a fox\n\n")
    refused = run("prove", "--local", "--prompts", "prompts.txt", cwd=tmp_path)
    assert refused.returncode == 2
    assert "line 2 of prompts.txt is empty" in refused.stderr
    assert not (tmp_path / "prove").exists()


def test_the_pictures_are_of_the_first_prompt(tmp_path: Path, tiny_checkpoint: Path):
    checkpoint_in(tmp_path / "models", tiny_checkpoint)
    settings = Settings(recipe="tiny-random", device="cpu", models_dir=tmp_path / "models")
    drawn: list[str] = []

    def start(*arguments: object, **options: object) -> Engine:
        engine = start_engine(*arguments, **options)  # type: ignore[arg-type]
        embed = engine.embed
        engine.embed = lambda spec: (drawn.append(spec.prompt), embed(spec))[1]  # type: ignore[method-assign]
        return engine

    for rows in (
        EngineRows(settings, tmp_path, start=start, prompt="a fox in the snow"),
        EngineRows(settings, tmp_path, start=start),
    ):
        rows.check("device")
    assert drawn == ["a fox in the snow", *PROMPTS]


def test_jobs_take_the_prompts_in_turn(tmp_path: Path):
    kept = MemoryFile(tmp_path, resumed=False)
    rows = HttpRows("https://studio.example", Account(), kept, print, prompts=("one", "two"))
    asked: list[str] = []

    class StoppedError(Exception):
        pass

    def submit(prompt: str, **_: object) -> None:
        asked.append(prompt)
        if len(asked) == 3:
            raise StoppedError

    rows._studio.submit = submit  # type: ignore[method-assign,assignment]
    with pytest.raises(StoppedError):
        rows.three()
    rows.close()
    assert asked == ["one", "two", "one"]


def test_other_prompts_are_another_proof_and_the_page_shows_them(tmp_path: Path):
    wanted = ProofReport(version="1", recipe="demo", device="cpu")
    own = wanted.model_copy(update={"prompts": ("a fox & a cat",)})
    row, purse = Row("one", lambda: Found(Verdict.HOLDS, "seen")), Purse(0, 0, lambda _: None)
    Proof(wanted, tmp_path).check([row], [], purse, print)

    assert not Proof(own, tmp_path).resumed
    Proof(own, tmp_path).check([row], [], purse, print)
    assert Proof(own, tmp_path).resumed
    assert json.loads((tmp_path / "report.json").read_text())["prompts"] == ["a fox & a cat"]
    assert "<li>a fox &amp; a cat</li>" in (tmp_path / "report.html").read_text()
