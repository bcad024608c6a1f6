"""A models folder with the tiny recipe's weights, built in a process of its own: torch stays out of ours."""

import subprocess
import sys
from pathlib import Path

from anime_studio.core.recipes import TINY_RANDOM


def tiny_models(folder: Path) -> Path:
    """Build the checkpoint under *folder* and return it, for `--models-dir`."""
    target = folder / TINY_RANDOM.name / TINY_RANDOM.revision
    subprocess.run(
        [sys.executable, "-m", "anime_studio.engine.tiny", str(target)], check=True, capture_output=True
    )
    return folder
