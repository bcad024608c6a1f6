"""The machine that draws, as a row names it."""

from __future__ import annotations

import platform
import shutil
import subprocess

import torch

from anime_studio.core.cpus import usable_cores


def device_in_words(setting: str) -> str:
    """Return card, memory and driver, or the CPU where *setting*, `auto`, `cpu` or `cuda`, takes no GPU."""
    if setting == "cpu" or not torch.cuda.is_available():
        return f"CPU {platform.machine()}, {usable_cores()} cores, no GPU used"
    card = torch.cuda.get_device_properties(0)
    return (
        f"{card.name}, {card.total_memory / 1024**3:.1f} GiB, driver {_driver()}, CUDA {torch.version.cuda}"
    )


def _driver() -> str:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "unknown (no nvidia-smi)"
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    return done.stdout.split("\n")[0].strip() or "unknown"
