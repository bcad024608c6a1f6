"""A signal that comes while the server starts stops it, at whichever moment it comes."""

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import os, signal, sys
from pathlib import Path
from anime_studio.on_laptop import server
from anime_studio.settings import Settings

number, where = getattr(signal, sys.argv[1]), sys.argv[2].rpartition(".")
owner = server if not where[0] else getattr(server, where[0])
real = getattr(owner, where[2])

def first_the_signal(*arguments, **options):
    os.kill(os.getpid(), number)
    return real(*arguments, **options)

setattr(owner, where[2], first_the_signal)
settings = Settings(data_dir=Path("data"), port=0)
server.serve(settings, worker_command=[sys.executable, "-c", "import sys; sys.stdin.read()"])
"""


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("moment", ["_Server.run", "Runtime.open", "_Server.startup"])
def test_a_signal_while_the_server_starts_stops_it(moment: str, number: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, number, moment],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert "server.stopped" in done.stdout + done.stderr
