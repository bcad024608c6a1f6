"""The commit that a result was measured at."""

from __future__ import annotations

import subprocess


def commit() -> str:
    """Return the commit of the folder that a program runs in; "unknown" where it is no repository."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    except OSError:  # no git here
        return "unknown"
    return head.stdout.strip() or "unknown"
