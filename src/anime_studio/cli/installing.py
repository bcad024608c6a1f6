"""How to install an extra from where this program came from: it is on no public index (ADR 8)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from anime_studio import __version__

_PROJECT: Final = Path(__file__).parents[3]


def install_command(extras: str) -> str:
    """Return the command that installs *extras* (`server,engine`) here: from the checkout, or from a wheel."""
    if (_PROJECT / "pyproject.toml").exists():
        return f"pip install -e '{_PROJECT}[{extras}]'"
    return (
        f"pip install './anime_studio-{__version__}-py3-none-any.whl[{extras}]'  (the wheel of the release)"
    )
