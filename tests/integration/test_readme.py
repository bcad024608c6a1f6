"""README's commands are run as they stand, against a real server. Those that need a network or minutes are listed."""

import contextlib
import os
import pty
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from anime_studio.core.recipes import DEMO
from support.command_line import run
from support.ports import free_port
from support.server_rig import ServerRig, until

PROJECT = Path(__file__).parents[2]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
NOT_RUN = {
    "make": "sets up an environment; .ci/run runs it",
    "source": "the test's own environment stands for it",
    "anime-studio weights": "fetches gigabytes",
    "anime-studio serve --recipe": "needs a GPU",
    "anime-studio prove": "draws a dozen clips, which takes minutes; tests/unit/prove runs it",
}


@pytest.fixture
def rig(tmp_path: Path) -> ServerRig:
    return ServerRig(tmp_path / "server", recipe=DEMO)


@pytest.fixture
def http(rig: ServerRig) -> Iterator[httpx.Client]:
    with rig.serve() as client:
        yield client


def commands() -> list[str]:
    return [
        line.partition("#")[0].strip()
        for language, text in BLOCKS
        if language in ("", "sh", "bash")
        for line in text.splitlines()
        if line.strip()
    ]


@pytest.mark.timeout(600)  # twelve commands; a hang ends with the command's own 100 s
def test_every_command_runs(rig: ServerRig, http: httpx.Client, tmp_path: Path) -> None:
    job_id = http.post("/generate", json={"prompt": "a cat"}, headers={"Prefer": "respond-async"}).json()[
        "job_id"
    ]
    environment = os.environ | {
        "JOB_ID": job_id,
        "ANIME_STUDIO_URL": str(http.base_url),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    ran = []
    with rig.worker():
        for command in commands():
            if any(command.startswith(start) for start in NOT_RUN):
                continue
            here = command.replace("localhost:8017", str(http.base_url).removeprefix("http://").rstrip("/"))
            done = subprocess.run(
                ["bash", "-c", here],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=100,
            )
            # doctor ends with 1 where something is missing, as on a machine without a server of its own.
            assert done.returncode in ((0, 1) if "doctor" in command else (0,)), f"{command}\n{done.stderr}"
            if command.startswith("curl"):
                assert "/problems/" not in done.stdout, command
            ran.append(command.split()[0])
    assert ran.count("curl") == 5
    assert ran.count("anime-studio") >= 6
    assert (tmp_path / "boy.mp4").stat().st_size > 0


def test_the_python_example_runs(rig: ServerRig, http: httpx.Client, tmp_path: Path) -> None:
    (code,) = (text for language, text in BLOCKS if language == "python")
    code = code.replace("http://127.0.0.1:8017", str(http.base_url))
    with rig.worker():
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=100)
    assert (tmp_path / "clip.mp4").stat().st_size > 0


def test_the_first_prompts_suit_the_demo(rig: ServerRig, http: httpx.Client) -> None:
    prompts = re.findall(r'"prompt": "([^"]+)"|generate\("([^"]+)"|generate "([^"]+)"', README)
    assert len(prompts) >= 3
    for prompt in ("".join(found) for found in prompts):
        job = http.post("/generate", json={"prompt": prompt}, headers={"Prefer": "respond-async"}).json()
        assert job["notes"] == [], prompt
        until(lambda: rig.render_next())


def test_every_target_of_make_that_is_named_exists() -> None:
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE))
    targets = set(
        re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert named
    assert named <= targets


def test_the_steps_say_what_they_fetch_before_they_fetch_it() -> None:
    dry = subprocess.run(
        ["make", "-n", "-B", "demo", "PYTHON=" + shlex.quote(sys.executable)],
        cwd=PROJECT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    said, fetched, ended = (
        dry.index(words) for words in ("0.2 GB as a CPU build", '"torch==', "Next: make serve")
    )
    assert said < fetched < ended


def test_serve_says_on_a_terminal_where_the_page_is(tmp_path: Path) -> None:
    terminal, of_process = pty.openpty()
    port = free_port()
    command = [sys.executable, "-m", "anime_studio.cli", "serve", "--port", str(port), "--data-dir", "data"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=of_process, stderr=of_process, stdin=of_process)
    os.close(of_process)
    try:
        written = b""
        while b"studio page" not in written:
            written += os.read(terminal, 1024)
        assert f"http://127.0.0.1:{port}".encode() in written + os.read(terminal, 1024)
    finally:
        process.terminate()
        with contextlib.suppress(OSError):  # the other end is closed when the process ends
            while os.read(terminal, 1024):
                pass
        process.wait(60)


def test_the_command_line_names_the_words_that_the_demo_does_not_know(
    rig: ServerRig, http: httpx.Client, tmp_path: Path
) -> None:
    with rig.worker():
        made = run("generate", "a cat on a roof", "--url", str(http.base_url), cwd=tmp_path)
        assert "note: demo does not know: roof" in made.stderr
        assert re.search(r"^note +demo does not know: roof", made.stdout, re.MULTILINE)
        job_id = re.search(r"j_[0-9a-f]{32}", made.stdout)
        assert job_id is not None
        status = run("status", job_id[0], "--url", str(http.base_url), cwd=tmp_path)
        assert "note: demo does not know: roof" in status.stdout
