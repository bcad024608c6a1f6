"""Threads follow the quota of the control group and the affinity, not the cores of the host."""

import os
import subprocess
import sys

import pytest

from anime_studio.core.cpus import usable_cores

ALL = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "100000 100000"}, 1),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": f"{100_000 * (ALL + 3)} 100000"}, ALL),
        ({"cpu.max": "max 100000"}, ALL),
        ({"cpu.max": "nonsense"}, ALL),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, ALL),
        ({}, ALL),
    ],
)
def test_a_quota_bounds_the_cores(tmp_path, files, cores):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")

    assert usable_cores(tmp_path) == cores


def test_the_affinity_bounds_the_cores(tmp_path):
    code = (
        "import os, pathlib; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]);"
        "from anime_studio.core.cpus import usable_cores; print(usable_cores(pathlib.Path('/nowhere')))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "1\n"
    )
