"""A container's limit counts, not the host's memory."""

import os
from pathlib import Path

import pytest

from anime_studio.core.host_memory import usable_memory_bytes

INSTALLED = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("files", "usable"),
    [
        ({"memory.max": "1073741824\n"}, 1073741824),
        ({"memory.max": "max\n"}, INSTALLED),
        ({"memory/memory.limit_in_bytes": "2147483648\n"}, 2147483648),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, INSTALLED),
        ({}, INSTALLED),
    ],
)
def test_the_smaller_of_limit_and_memory_counts(tmp_path: Path, files: dict[str, str], usable: int):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert usable_memory_bytes(tmp_path) == usable
