"""The benchmark of kept kernels runs from end to end where there is no GPU; its times at a tiny shape mean nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(360)  # four processes that import torch, one after another
def test_each_start_has_its_row(tmp_path: Path):
    command = [
        sys.executable,
        "-m",
        "benchmarks.startup.kernels",
        "--cpu",
        "--runs",
        "1",
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=ROOT
    )

    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [row["start"] for row in rows] == ["cold", "kept", "kept, compilers imported"]
    for row in rows:
        assert row["warm_up_s"] > 0 and row["graphs_compiled"] == 0, "a CPU compiles nothing"
    assert not list(tmp_path.iterdir()), "a tiny shape is no result"
