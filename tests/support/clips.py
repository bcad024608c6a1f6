"""Real files for tests: a small MP4 and its poster."""

import io
import tempfile
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
from PIL import Image

from anime_studio.core.jobs import RenderedClip

WIDTH, HEIGHT, NUM_FRAMES, FPS = 64, 48, 17, 16


def render(folder: Path, *, seed: int = 0) -> RenderedClip:
    """Write a clip as the engine would: H.264, yuv420p, 16 fps, faststart; a second or so of noise."""
    folder.mkdir(parents=True, exist_ok=True)
    video, poster = folder / "clip.mp4", folder / "poster.jpg"
    video.write_bytes(_mp4(seed))
    poster.write_bytes(_jpeg(seed))
    return RenderedClip(
        video, poster, WIDTH, HEIGHT, NUM_FRAMES, FPS, text_s=0.01, denoise_s=0.3, decode_s=0.1
    )


@cache
def _mp4(seed: int) -> bytes:
    random = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
            stream = container.add_stream("libx264", rate=FPS)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            stream.time_base = Fraction(1, FPS)
            for _ in range(NUM_FRAMES):
                frame = av.VideoFrame.from_ndarray(
                    random.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
                )
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path.read_bytes()


@cache
def _jpeg(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()
