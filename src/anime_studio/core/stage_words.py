"""The one vocabulary of the stages, for people: in the report and on the command line.

The pages have the same words (`web/static/stages.js`; a test compares the two).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

STAGE_WORDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "queue": "Waiting",
        "start": "Waking",
        "text": "Reading",
        "denoise": "Drawing",
        "decode": "Developing",
        "upscale": "Sharpening",
        "store": "Storing",
        "total": "In all",
    }
)
"""By the names of `Timings`; a job's stage `starting` is `start` there."""
