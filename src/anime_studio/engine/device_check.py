"""Can this device compute: asked after a container started, and again after a memory snapshot was restored.

A restored GPU may be absent, half initialised, or hold other bytes than were saved. So three things are checked: the
driver, a computation whose result is known, and a fingerprint of the weights that was taken before the snapshot.
"""

from __future__ import annotations

import ctypes
import hashlib
import random
import time
from collections import defaultdict
from typing import Any, Final

import numpy as np
import torch

from anime_studio.core.errors import EngineError
from anime_studio.engine.loading.components import Components

CUDA_TRIES: Final = 10
"""Modal's guide, "Troubleshooting": some L4 hosts refuse `cuInit` at first; try it about ten times."""
CUDA_WAIT_S: Final = 1.0
_SIDE: Final = 64
_SAMPLE: Final = 256


def wait_for_cuda(*, tries: int = CUDA_TRIES, wait_s: float = CUDA_WAIT_S) -> None:
    """Initialise the CUDA driver, with retries, before torch uses it: torch remembers a failure.

    Raises:
        EngineError: There is no driver, or it refused every time.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise EngineError(f"this machine has no CUDA driver ({error})") from error
    for _ in range(tries):
        status = driver.cuInit(0)
        if status == 0:
            return
        time.sleep(wait_s)
    raise EngineError(f"the CUDA driver refused to start {tries} times (cuInit gave {status})")


def check_device(device: torch.device) -> None:
    """Multiply two matrices of small integers, exact in float32, and compare with the known product.

    Raises:
        EngineError: The device fails, or computes wrongly.
    """
    ramp = torch.arange(_SIDE, dtype=torch.float32)
    rows = ramp.repeat(_SIDE, 1)
    # Each entry of rows @ rows.T is the sum of squares below _SIDE.
    expected = (_SIDE - 1) * _SIDE * (2 * _SIDE - 1) / 6
    try:
        on_device = rows.to(device)
        product = (on_device @ on_device.T).cpu()
    except RuntimeError as error:
        raise EngineError(f"{device} cannot compute: {error}") from error
    # TF32 keeps 10 bits of each factor: integers below 64 need 6.
    if not bool((product == expected).all()):
        raise EngineError(f"{device} computes wrongly: {product[0, 0].item()} instead of {expected}")


def fingerprint(components: Components) -> str:
    """Return a hash over a sample of every weight and buffer, read from the device where it is now.

    Raises:
        EngineError: The device fails.
    """
    digest = hashlib.sha256()
    try:
        for module in components.models.values():
            digest.update(_sample(module))
    except RuntimeError as error:
        raise EngineError(f"the weights on {components.device} cannot be read: {error}") from error
    return digest.hexdigest()


def check_fingerprint(components: Components, expected: str) -> None:
    """Compare the weights with an earlier `fingerprint`.

    Raises:
        EngineError: They differ, or the device fails.
    """
    if fingerprint(components) != expected:
        raise EngineError(f"the weights on {components.device} are not those that were saved")


def reseed() -> None:
    """Give every global random generator a fresh state: all restored containers begin with the snapshot's state."""
    random.seed()
    np.random.seed(None)
    torch.seed()


def _sample(module: Any) -> bytes:
    # Grouped by device, because some tables stay in host memory: one copy each, not one for each of 1,000 tensors.
    parts: defaultdict[torch.device, list[torch.Tensor]] = defaultdict(list)
    for tensor in module.state_dict().values():
        parts[tensor.device].append(tensor.flatten()[:_SAMPLE].float())
    return b"".join(torch.cat(group).cpu().numpy().tobytes() for group in parts.values())
