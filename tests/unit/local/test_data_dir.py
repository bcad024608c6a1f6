"""One server, one worker, one key that nobody else reads."""

import stat
import threading
from pathlib import Path

import pytest

from anime_studio.core.errors import ConfigurationError
from anime_studio.core.signing import MIN_KEY_CHARS
from anime_studio.local.data_dir import DataDir


def test_the_key_is_made_once_and_is_its_owners(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    key = data.signing_key()
    assert len(key) >= MIN_KEY_CHARS
    assert DataDir(tmp_path).signing_key() == key
    assert stat.S_IMODE((tmp_path / "signing.key").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["signing.key"]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
def test_a_key_that_others_can_touch_is_refused(tmp_path: Path, mode: int) -> None:
    DataDir(tmp_path).signing_key()
    (tmp_path / "signing.key").chmod(mode)
    with pytest.raises(ConfigurationError, match=r"chmod 600 .*signing\.key"):
        DataDir(tmp_path).signing_key()


def test_a_second_server_is_refused_until_the_first_has_gone(tmp_path: Path) -> None:
    first, second = DataDir(tmp_path), DataDir(tmp_path)
    with first.for_server(), pytest.raises(ConfigurationError, match="another server"), second.for_server():
        pass
    with DataDir(tmp_path).for_server():
        pass


def test_a_second_worker_waits_for_the_first(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with DataDir(tmp_path).for_worker():
            order.append("second")

    with DataDir(tmp_path).for_worker():
        waiting = threading.Thread(target=second)
        waiting.start()
        waiting.join(0.3)
        order.append("first")
    waiting.join(180)
    assert order == ["first", "second"]
