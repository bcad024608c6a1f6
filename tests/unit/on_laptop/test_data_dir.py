"""One server, one worker, one key that nobody else reads."""

import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from anime_studio.core.errors import ConfigurationError
from anime_studio.core.signing import MIN_KEY_CHARS
from anime_studio.on_laptop.data_dir import DataDir


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
    waiting.join(120)
    assert order == ["first", "second"]


HOLD_AND_STOP = """
import os, signal, sys
from pathlib import Path
from anime_studio.on_laptop.data_dir import DataDir
with DataDir(Path(sys.argv[1])).for_worker():
    print("held", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
"""


def test_a_stopped_worker_of_an_earlier_server_is_ended(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD_AND_STOP, str(tmp_path)], stdout=subprocess.PIPE
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"held\n"
        assert (tmp_path / "worker.lock").read_text() == str(worker.pid)
        assert DataDir(tmp_path).end_stale_worker(after_s=0) == worker.pid
        assert worker.wait(120) == -signal.SIGKILL
    with DataDir(tmp_path).for_worker():
        pass


def test_a_process_that_only_has_the_number_of_an_old_worker_is_left_alone(tmp_path: Path) -> None:
    bystander = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
    )
    try:
        with DataDir(tmp_path).for_worker():
            (tmp_path / "worker.lock").write_text(str(bystander.pid))
            assert DataDir(tmp_path).end_stale_worker(after_s=0) is None
            assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait(120)


def test_no_worker_is_ended_where_none_holds_the_folder(tmp_path: Path) -> None:
    assert DataDir(tmp_path).end_stale_worker(after_s=0) is None
    (tmp_path / "worker.lock").write_text(str(os.getpid()))  # left by one that ended
    assert DataDir(tmp_path).end_stale_worker(after_s=0) is None


def test_what_an_earlier_version_left_open_to_others_is_closed(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    data.clips.mkdir(mode=0o755)
    for path in (data.jobs, tmp_path / "jobs.sqlite3-wal"):
        path.touch(mode=0o644)
    with data.for_server():
        pass
    modes = [path.stat().st_mode & 0o777 for path in (data.clips, data.jobs, tmp_path / "jobs.sqlite3-wal")]
    assert modes == [0o700, 0o600, 0o600]
