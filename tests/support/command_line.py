"""The command line as a process."""

import os
import subprocess
import sys
from pathlib import Path

from support.server_rig import PATIENCE_S


def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; *environment* is added to this process's."""
    return subprocess.run(
        [sys.executable, "-m", "anime_studio.cli", *arguments],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
