"""Ids of jobs, clips and requests: how they are made and recognised.

A job id is its owner's capability, so it is random: 128 bits. A clip id is public and opens nothing.
"""

from __future__ import annotations

import re
import secrets

from common.schemas import CLIP_ID_PATTERN, JOB_ID_PATTERN

_JOB_ID = re.compile(JOB_ID_PATTERN)
_CLIP_ID = re.compile(CLIP_ID_PATTERN)


def new_job_id() -> str:
    """Return `j_` and 32 random hex digits."""
    return f"j_{secrets.token_hex(16)}"


def new_clip_id() -> str:
    """Return `c_` and 32 random hex digits."""
    return f"c_{secrets.token_hex(16)}"


def new_request_id() -> str:
    """Return `r_` and 32 random hex digits."""
    return f"r_{secrets.token_hex(16)}"


def is_job_id(text: str) -> bool:
    """Whether *text* has the form of a job id."""
    return _JOB_ID.fullmatch(text) is not None  # with `match`, `$` would allow a final newline


def is_clip_id(text: str) -> bool:
    """Whether *text* has the form of a clip id."""
    return _CLIP_ID.fullmatch(text) is not None
