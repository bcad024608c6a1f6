"""What torch.compile wrote in one process is found by another one, in a folder of another name: no graph is compiled twice."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from anime_studio.engine.kernel_cache import KernelCache, environment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(500),  # two processes import torch and its compiler, and one of them runs g++
    pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on a CPU needs g++"),
]

PROGRAM = """
import json
import torch
from torch._dynamo.utils import counters

class Block(torch.nn.Module):
    def forward(self, x, gain):
        return torch.nn.functional.silu(x.float() * gain).sum(dim=-1) + 1

torch.manual_seed(0)
block = Block()
block.compile(fullgraph=True)
with torch.inference_mode():
    out = block(torch.randn(4, 32), torch.randn(32))
print(json.dumps({"hits": counters["inductor"]["fxgraph_cache_hit"], "misses": counters["inductor"]["fxgraph_cache_miss"],
    "out": out.tolist()}))
"""
MADE_FOR = {"card": "cpu"}


def compile_in(local: Path) -> dict[str, object]:
    """Compile a small module in a process of its own, whose compilers write below *local*."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, **environment(local), "TORCHINDUCTOR_COMPILE_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_a_fresh_process_with_kept_kernels_compiles_nothing(tmp_path: Path):
    first = compile_in(tmp_path / "first")
    assert (first["hits"], first["misses"]) == (0, 1)
    cache = KernelCache(tmp_path / "kept", tmp_path / "first", MADE_FOR)
    content = cache.pack()
    assert content is not None
    cache.file.parent.mkdir()
    cache.file.write_bytes(content)
    shutil.rmtree(tmp_path / "first")  # what the second finds, it finds in the kept file

    assert KernelCache(tmp_path / "kept", tmp_path / "second", MADE_FOR).restore()
    second = compile_in(tmp_path / "second")

    assert (second["hits"], second["misses"]) == (1, 0)
    assert second["out"] == first["out"]
