"""Write constraints-gpu.txt: every package of the GPU image, as uv resolves them on the package index.

`constraints.txt` holds what is installed here, where torch may be a CPU build. The GPU image has the torch of the GPU
benchmarks, with the CUDA packages that this torch names; all else is as in `constraints.txt`. uv resolves for the
image's Python and platform, so any machine can write the file. It reads the public index alone, whatever pip is told.

    .venv/bin/python tools/gpu_constraints.py > constraints-gpu.txt
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from anime_studio.on_modal.images import ENGINE_EXTRA, GPU_TORCH, PYTHON_VERSION, requirements

PROJECT = Path(__file__).parents[1]
PLATFORM = "x86_64-manylinux_2_36"
"""glibc of Debian bookworm, which an image of `modal.Image.debian_slim` has at least."""


def resolution() -> str:
    """Return one `name==version` a line."""
    command = [
        sys.executable, "-m", "uv", "pip", "compile", "-", "--quiet", "--no-config", "--no-header", "--no-annotate",
        "--only-binary", ":all:", "--python-version", PYTHON_VERSION, "--python-platform", PLATFORM,
        "--no-python-downloads", "--constraint", str(PROJECT / "constraints.txt"),
    ]  # fmt: skip
    wanted = "\n".join([*requirements(ENGINE_EXTRA), GPU_TORCH])
    # Without a configuration and variables of its own, uv asks the public index.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("UV_")}
    return subprocess.run(
        command, input=wanted, check=True, text=True, stdout=subprocess.PIPE, env=environment
    ).stdout


if __name__ == "__main__":
    print("# Written by tools/gpu_constraints.py; `make constraints-gpu` does it again.")  # noqa: T201
    print(resolution(), end="")  # noqa: T201
