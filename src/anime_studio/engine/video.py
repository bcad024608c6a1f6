"""Frames to a playable MP4 and a poster, on a thread of its own while the decoder draws on.

H.264, yuv420p, constant rate, a keyframe each second so that players seek, the index at the front
(faststart) so that they start at once. Faststart rewrites the finished file by name, so PyAV needs a real
path, not a memory buffer. The file is opened again and its frames are counted before anyone may have it.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from PIL import Image

from anime_studio.core.errors import DiskFullError, EngineError

CRF = "18"
"""Visually near lossless for flat-shaded drawings; x264's scale, 23 is its default."""
POSTER_QUALITY = 85

_END = None


class VideoWriter:
    """Takes frames and writes the two files of a clip; use as a context manager.

    Leaving the block normally finishes and checks both files; leaving it by an exception removes them.

    Args:
        video: Path of the MP4 to write.
        poster: Path of the JPEG to write.
        size: (width, height) of the clip; frames of another size are scaled to it.
        fps: Constant frame rate.
        num_frames: Frames that will come.
        metadata: Written into the MP4's `comment`.
    """

    def __init__(
        self, video: Path, poster: Path, *, size: tuple[int, int], fps: int, num_frames: int, metadata: str
    ) -> None:
        self._video, self._poster = video, poster
        self._size, self._fps, self._num_frames = size, fps, num_frames
        self._metadata = metadata
        # A frame's own `reformat` builds a scaler with a pool of threads for each frame: 4 ms on 16 cores.
        self._scaler = VideoReformatter()
        self._frames: queue.Queue[np.ndarray[Any, Any] | None] = queue.Queue(maxsize=16)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="video-writer", daemon=True)

    def __enter__(self) -> VideoWriter:
        self._thread.start()
        return self

    def write(self, frames: np.ndarray[Any, Any]) -> None:
        """Hand over frames: uint8 (n, height, width, 3), RGB.

        Raises:
            DiskFullError: No room for the file.
            EngineError: The encoder failed.
        """
        for frame in frames:
            self._put(frame)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._put(_END, wait_for_room=kind is None)
            self._thread.join()
            if kind is None:
                self._raise_failure()
                self._check()
        except BaseException:
            self._remove()
            raise
        if kind is not None:
            self._remove()

    def _check(self) -> None:
        count = count_frames(self._video)
        if count != self._num_frames:
            raise EngineError(f"{self._video.name} holds {count} frames, {self._num_frames} were drawn")

    def _put(self, frame: np.ndarray[Any, Any] | None, *, wait_for_room: bool = True) -> None:
        while True:
            if wait_for_room:
                self._raise_failure()
            elif not self._thread.is_alive():
                return
            with contextlib.suppress(queue.Full):
                self._frames.put(frame, timeout=0.2)
                return

    def _raise_failure(self) -> None:
        if self._failure is None:
            return
        if isinstance(self._failure, OSError) and self._failure.errno in DiskFullError.errnos:
            raise DiskFullError(f"no room left while writing {self._video}") from self._failure
        raise EngineError(f"encoding {self._video.name} failed: {self._failure}") from self._failure

    def _run(self) -> None:
        try:
            self._encode()
        except BaseException as failure:  # noqa: BLE001 (handed to the drawing thread, which raises it)
            self._failure = failure

    def _encode(self) -> None:
        width, height = self._size
        with av.open(self._video, "w", format="mp4", options={"movflags": "+faststart"}) as container:
            container.metadata["comment"] = self._metadata
            stream = container.add_stream("libx264", rate=self._fps)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.time_base = Fraction(1, self._fps)
            context = stream.codec_context
            context.options = {"crf": CRF, "preset": "veryfast"}
            context.gop_size = self._fps
            context.thread_type = "FRAME"  # PyAV asks for slices, which cost x264 time and bytes
            context.color_range = ColorRange.MPEG
            context.colorspace, context.color_primaries, context.color_trc = 1, 1, 1  # BT.709, ITU-T H.273
            index = 0
            while (pixels := self._frames.get()) is not _END:
                container.mux(stream.encode(self._frame(pixels, index)))
                index += 1
            container.mux(stream.encode(None))

    def _frame(self, pixels: np.ndarray[Any, Any], index: int) -> av.VideoFrame:
        width, height = self._size
        drawn = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame = self._scaler.reformat(
            drawn,
            width,
            height,
            "yuv420p",
            interpolation=Interpolation.BICUBIC,
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
        )
        frame.pts, frame.time_base = index, Fraction(1, self._fps)
        if index == self._num_frames // 2:
            still = drawn.reformat(width, height, "rgb24", interpolation=Interpolation.BICUBIC)
            Image.fromarray(still.to_ndarray()).save(
                self._poster, "JPEG", quality=POSTER_QUALITY, optimize=True
            )
        return frame

    def _remove(self) -> None:
        self._video.unlink(missing_ok=True)
        self._poster.unlink(missing_ok=True)


def count_frames(video: Path) -> int:
    """Return how many frames *video* really decodes to.

    Raises:
        EngineError: It cannot be decoded to its end.
    """
    try:
        with av.open(video) as container:
            container.streams.video[0].thread_type = "AUTO"
            return sum(1 for _ in container.decode(video=0))
    except (av.FFmpegError, OSError, IndexError) as error:
        raise EngineError(f"{video.name} does not decode: {error}") from error
