"""Render scenes: one shader source, compiled by g++ for a CPU and by NVRTC (through CuPy) for a GPU."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.world import scene

FPS = 16
CHANNELS = 4
"""Red, green, blue, and focus: how much a viewer looks here (0 background, 102 body, 255 head)."""

_FILES = ("shapes.h", "background.h", "figure.h", "cat.h", "weather.h", "shade.h", "kernel.h")
_ENUMS = {
    "": scene.PARAMETERS,
    "SCENES": scene.SCENES,
    "TIMES": scene.TIMES_OF_DAY,
    "WEATHERS": scene.WEATHERS,
    "CHARACTERS": scene.CHARACTERS,
    "ACTIONS": scene.ACTIONS,
    "STYLES": scene.HAIR_STYLES,
    "EXPRESSIONS": scene.EXPRESSIONS,
    "CAMERAS": scene.CAMERAS,
    "FAULTS": tuple(f"fault {name}" for name in scene.FACE_FAULTS),
}


def render(
    parameters: torch.Tensor,
    frames: int,
    height: int,
    width: int,
    start_s: torch.Tensor | None = None,
    *,
    stride: int = 1,
) -> torch.Tensor:
    """Render clips at 16 fps.

    Args:
        parameters: float32 (clips, len(PARAMETERS)), on the device that renders.
        frames: Frames of each clip.
        height: Pixels.
        width: Pixels; the world is composed for 12:7.
        start_s: float32 (clips,), where in its motion each clip begins; 0 when None.
        stride: Render every *stride*-th frame of the motion.

    Returns:
        uint8 (clips, 4, frames, height, width): see `CHANNELS`.
    """
    clips = len(parameters)
    parameters = parameters.float().contiguous()
    start_s = (
        torch.zeros(clips, device=parameters.device) if start_s is None else start_s.float().contiguous()
    )
    out = torch.empty(clips, CHANNELS, frames, height, width, dtype=torch.uint8, device=parameters.device)
    if parameters.is_cuda:
        _launch(parameters, start_s, out, stride)
    else:
        pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (parameters, start_s, out))
        _cpu_library().render(*pointers, clips, frames, height, width, stride)
    return out


def source() -> str:
    """Return the shader, with the numbers of parameters and values spelled as enums."""
    enums = [f"enum {{ {', '.join(_constant(name) for name in names)} }};" for names in _ENUMS.values()]
    folder = Path(__file__).parent / "shader"
    bodies = [(folder / name).read_text(encoding="utf-8") for name in _FILES]
    return "\n".join([f"#define NUM_PARAMETERS {len(scene.PARAMETERS)}", *enums, *bodies])


def _constant(name: str) -> str:
    return name.upper().replace(" ", "_")


@functools.cache
def _gpu_kernel(device: int) -> Any:  # noqa: ARG001 (a kernel belongs to a device)
    import cupy  # type: ignore[import-not-found,unused-ignore]

    code = "#define ON_GPU\n#define HD __device__ inline\n" + source()
    return cupy.RawKernel(code, "render", options=("--use_fast_math",))


def _launch(parameters: torch.Tensor, start_s: torch.Tensor, out: torch.Tensor, stride: int) -> None:
    import cupy  # type: ignore[import-not-found,unused-ignore]

    clips, _, frames, height, width = out.shape
    blocks = (clips * frames * height * width + 255) // 256
    with (
        cupy.cuda.Device(out.device.index),
        cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream),
    ):
        pointers = tuple(np.uint64(tensor.data_ptr()) for tensor in (parameters, start_s, out))
        sizes = tuple(np.int32(size) for size in (clips, frames, height, width, stride))
        _gpu_kernel(out.device.index)((blocks,), (256,), (*pointers, *sizes))


@functools.cache
def _cpu_library() -> ctypes.CDLL:
    code = "#include <math.h>\n#define HD static inline\n" + source()
    name = hashlib.sha256(code.encode()).hexdigest()[:16]
    library = Path(tempfile.gettempdir()) / f"anime-world-{name}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory() as scratch:
            built = Path(scratch) / "world.so"
            (Path(scratch) / "world.cpp").write_text(code, encoding="utf-8")
            flags = ("-O3", "-march=native", "-ffast-math", "-shared", "-fPIC")
            subprocess.run(["g++", *flags, "-o", built, Path(scratch) / "world.cpp"], check=True)
            library.write_bytes(built.read_bytes())
    return ctypes.CDLL(str(library))
