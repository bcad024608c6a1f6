"""`anime-studio follow`: a channel's clips as files, from a real server, across restarts and faults."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import httpx
import pytest

from support.command_line import run
from support.ports import free_port
from support.server_rig import ServerRig, until

CHANNEL = "show-0123456789abcdef"


@pytest.fixture
def rig(tmp_path: Path) -> ServerRig:
    return ServerRig(tmp_path / "server")


@pytest.fixture
def http(rig: ServerRig) -> Iterator[httpx.Client]:
    with rig.serve() as client:
        yield client


def clip(rig: ServerRig, http: httpx.Client, seed: int = 0) -> str:
    body = {"prompt": f"cat {seed}", "seed": seed, "channel": CHANNEL}
    http.post("/generate", json=body, headers={"Prefer": "respond-async"})
    return rig.render_next().clip_id


def follow(http: httpx.Client, folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    arguments = ("follow", CHANNEL, "--dir", "clips", "--url", str(http.base_url), *options)
    return run(*arguments, cwd=folder, PYTHONWARNINGS="ignore")


def saved(folder: Path) -> list[str]:
    """Return the short ids of the clips in the folder, in the order of their names."""
    return [path.stem.rpartition("-")[2] for path in sorted(folder.glob("2*.mp4"))]


def frames(path: Path) -> int:
    with av.open(str(path)) as video:
        return sum(1 for _ in video.decode(video=0))


def test_clips_are_saved_whole_with_the_newest_as_current_and_a_playlist(
    rig: ServerRig, http: httpx.Client, tmp_path: Path
) -> None:
    ids = [clip(rig, http, seed)[2:10] for seed in range(2)]
    assert follow(http, tmp_path, "--once").returncode == 0
    folder = tmp_path / "clips"
    files = sorted(folder.glob("2*.mp4"))
    assert sorted(saved(folder)) == sorted(ids)
    assert all(frames(path) == 17 for path in files)
    playlist = (folder / "clips.m3u").read_text().splitlines()
    assert [name.removesuffix(".mp4").rpartition("-")[2] for name in playlist[1:]] == ids
    assert (folder / "current.mp4").read_bytes() == (folder / playlist[-1]).read_bytes()
    assert not list(folder.glob("*.part")) + list(folder.glob(".*.part"))

    third = clip(rig, http, 2)[2:10]  # a second run goes on, and keeps as many as it may
    done = follow(http, tmp_path, "--once", "--keep", "2")
    assert done.stderr.count("saved") == 1
    assert sorted(saved(folder)) == sorted([ids[1], third])
    assert saved(folder)[-1] == third or third in (folder / "clips.m3u").read_text()


def test_it_replaces_current_in_one_step_and_ends_at_ctrl_c(
    rig: ServerRig, http: httpx.Client, tmp_path: Path
) -> None:
    command = (sys.executable, "-m", "anime_studio.cli", "follow", CHANNEL, "--url", str(http.base_url))
    folder = tmp_path / "clips"
    process = subprocess.Popen(
        command, cwd=tmp_path, env=os.environ, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        first = clip(rig, http, 0)
        until(lambda: (folder / "current.mp4").exists() and first[2:10] in saved(folder))
        before = (folder / "current.mp4").read_bytes()
        with (folder / "current.mp4").open("rb") as still_open:  # as a player has it
            second = clip(rig, http, 1)
            until(lambda: (folder / "current.mp4").read_bytes() != before)
            assert still_open.read() == before
        assert second[2:10] in saved(folder)
    finally:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err


def test_a_server_that_does_not_answer_is_asked_again(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    command = (sys.executable, "-m", "anime_studio.cli", "follow", CHANNEL, "--url", url)
    process = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stderr is not None
    lines = [process.stderr.readline() for _ in range(2)]
    assert "trying again" in lines[1]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130


def test_another_channels_folder_and_a_wrong_name_are_refused(
    rig: ServerRig, http: httpx.Client, tmp_path: Path
) -> None:
    clip(rig, http)
    follow(http, tmp_path, "--once")
    other = run("follow", "another-show-0123456789", "--once", "--url", str(http.base_url), cwd=tmp_path)
    assert other.returncode == 2
    assert "follows another channel" in other.stderr.replace("\n", " ").replace("│", "")
    short = run("follow", "short", "--dir", "x", "--url", str(http.base_url), cwd=tmp_path)
    assert short.returncode == 3


def test_a_clip_that_was_swept_is_left_out_and_a_damaged_state_begins_anew(
    rig: ServerRig, http: httpx.Client, tmp_path: Path
) -> None:
    kept = clip(rig, http, 0)
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / ".follow.json").write_text("{half")
    assert follow(http, tmp_path, "--once").returncode == 0
    assert saved(folder) == [kept[2:10]]
