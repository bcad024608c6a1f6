"""Text that crosses a border: no control characters to a terminal, no folders of this machine to callers."""

import pytest

from anime_studio.core.errors import CheckpointError, ReportedError
from anime_studio.core.plain_text import title_of, visible, without_folders


@pytest.mark.parametrize("character", ["\x1b", "\r", "\x07", "\x7f", "\x9b", "\u202e", "\u2066", "\u2028"])
def test_a_character_that_drives_the_terminal_becomes_an_escape(character):
    shown = visible(f"a{character}[2Jb")

    assert character not in shown
    assert (shown[0], shown[-4:], shown[1]) == ("a", "[2Jb", "\\")


def test_people_s_text_stays_as_it_is():
    text = "a cat, 猫, قط, 👩‍🚀\n\tsecond line"
    assert visible(text) == text
    assert visible(text, lines=False).endswith("\\n\\tsecond line")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "/home/ada/.anime-studio/models/demo/0f/vae/config.json is missing",
            "…/vae/config.json is missing",
        ),
        ("no room to write /data/jobs.sqlite3; free some", "no room to write …/jobs.sqlite3; free some"),
        ("'/srv/a/b/c' is bad, (/var/x/y.part) too", "'…/b/c' is bad, (…/x/y.part) too"),
        ("read the job again (GET /jobs/{job_id}/events)", "read the job again (GET /jobs/{job_id}/events)"),
        ("/openapi.json lists them", "/openapi.json lists them"),
        (
            "see https://host.example/a/b/c and /outputs/c_0/poster",
            "see https://host.example/a/b/c and /outputs/c_0/poster",
        ),
        ("step 2/3 and 4/5/6", "step 2/3 and 4/5/6"),
    ],
)
def test_a_path_is_cut_to_folder_and_name(text, shown):
    assert without_folders(text) == shown
    assert without_folders(shown) == shown


def test_a_problem_names_the_file_and_hides_the_folder():
    error = CheckpointError("/home/ada/models/demo/vae/config.json is missing")

    assert error.problem().detail == "…/vae/config.json is missing"
    assert str(error) == error.detail == "/home/ada/models/demo/vae/config.json is missing"
    assert ReportedError(error.problem()).problem().detail == "…/vae/config.json is missing"


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("a cat\n on\ta ", "a cat on a"),
        ("abcdefghij", "abcdefghij"),
        ("abcdefghijk", "abcdefghi…"),
        ("abcd \u202efghi\u2066", "abcd fghi"),
        ("abcdefghe\u0301jk", "abcdefgh…"),
        ("abcdefg👩\u200d🚀 on the moon", "abcdefg…"),
        ("abcdefgh👍🏽 yes", "abcdefgh…"),
        ("abcdefgh🇯🇵 flag", "abcdefgh…"),
        ("\u0301" * 50, "\u0301" * 9 + "…"),
    ],
)
def test_a_title_is_one_line_cut_between_characters_as_people_see_them(text, title):
    assert title_of(text, 10) == title
