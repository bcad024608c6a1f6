"""docs/client.md: its examples run, and its table names every error."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from anime_studio import client
from anime_studio.cli.local_server import running_server
from anime_studio.core.errors import AnimeStudioError, HubError

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[2] / "docs" / "client.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
ROWS = re.findall(r"^\| (`[a-z_`, ]+`) \| `(\w+)` \|", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def url(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    models = tiny_checkpoint.parents[1]
    with running_server(tmp_path_factory.mktemp("data"), recipe="tiny-random", models_dir=models) as server:
        yield server.url


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_example_runs_and_leaves_a_clip(example, url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(example.replace(client.DEFAULT_URL, url), "client.md", "exec"), names)
    assert names.get("job") is None or names["job"].clip is not None
    for path in re.findall(r'"(\w+\.mp4)"', example):
        assert b"ftyp" in Path(path).read_bytes()[:12]


def test_the_table_names_every_class_and_every_code():
    assert {name for _, name in ROWS} | {"JobEndedError", "RefusedError"} == {
        name
        for name in client.__all__
        if name.endswith("Error") and issubclass(getattr(client, name), Exception)
    }
    # What the model hub refuses is told by the command that fetches; no server of ours answers with it.
    assert set(codes_of(AnimeStudioError)) - set(codes_of(HubError)) <= set(
        re.findall(r"`(\w+)`", " ".join(codes for codes, _ in ROWS))
    )


def codes_of(error: type[AnimeStudioError]) -> Iterator[str]:
    if error.__module__ == AnimeStudioError.__module__:
        yield error.code
        for kind in error.__subclasses__():
            yield from codes_of(kind)
