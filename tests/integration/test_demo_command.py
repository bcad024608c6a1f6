"""`anime-studio demo` where it gets no clip: it says at once why its server cannot draw, and leaves no server behind."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from anime_studio.cli.output import ExitCode
from support.command_line import run
from support.engine import checkpoint_in, cut
from support.server_rig import PATIENCE_S


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("fastwan-3step", "fetch them with: anime-studio weights fetch --recipe fastwan-3step"),
        ("tiny-random", "/vae/diffusion_pytorch_model.safetensors has "),
    ],
)
def test_what_a_person_must_mend_is_said_at_once(
    tmp_path: Path, tiny_checkpoint: Path, recipe: str, words: str
) -> None:
    cut(
        checkpoint_in(tmp_path / "models", tiny_checkpoint).folder / "vae/diffusion_pytorch_model.safetensors"
    )
    done = run("demo", "--recipe", recipe, "--models-dir", "models", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (ExitCode.UNAVAILABLE, ""), done.stderr
    assert words in done.stderr


def started_demo(folder: Path, hangup: signal.Handlers = signal.SIG_DFL) -> subprocess.Popen[str]:
    """Start the command with the given answer to a closed terminal: the tests may run under nohup themselves."""
    arguments = ("demo", "--recipe", "tiny-random", "--models-dir", "models")
    return subprocess.Popen(
        [sys.executable, "-m", "anime_studio.cli", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=os.environ | {"TMPDIR": str(folder)},
        preexec_fn=lambda: signal.signal(signal.SIGHUP, hangup),
    )


def url_of(demo: subprocess.Popen[str]) -> str:
    assert demo.stderr
    return next(found[1] for line in demo.stderr if (found := re.search(r"server at (\S+);", line)))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_ended_leaves_no_server_behind(
    tmp_path: Path, tiny_checkpoint: Path, number: signal.Signals
) -> None:
    checkpoint_in(tmp_path / "models", tiny_checkpoint)
    with started_demo(tmp_path) as demo:
        url = url_of(demo)
        assert httpx.get(f"{url}/health", timeout=PATIENCE_S).status_code == 200
        demo.send_signal(number)
        assert demo.wait() == 128 + number
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")
    assert list(tmp_path.glob("anime-studio-*")) == []


def test_under_nohup_a_closed_terminal_ends_nothing(tmp_path: Path, tiny_checkpoint: Path) -> None:
    checkpoint_in(tmp_path / "models", tiny_checkpoint)
    with started_demo(tmp_path, hangup=signal.SIG_IGN) as demo:
        url_of(demo)
        demo.send_signal(signal.SIGHUP)
        _, words = demo.communicate()
    assert demo.returncode == 0, words
    assert (tmp_path / "clip.mp4").stat().st_size > 0
