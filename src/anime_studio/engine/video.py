"""Frames -> a playable MP4 and a poster, encoded by a thread of its own while the decoder goes on.

H.264, yuv420p, constant rate, a keyframe each second so that players can seek, the index at the front (faststart) so that
they start at once. Faststart rewrites the finished file by name, so PyAV needs a real path, not a memory buffer. Before
anyone may have the file, every frame in it was decoded (`mp4_check`).

The same frames give the same bytes, whatever the machine has cores. For that the number of threads is fixed, and x264's
mbtree is off: with it a process's first clip differs from its later ones.
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
from anime_studio.engine.mp4_check import DecodedBeside

_X264 = {"preset": "superfast", "crf": "21", "x264-params": "mbtree=0"}
"""As near to the frames (SSIM 0.982) as `veryfast` at 18 with mbtree, for 0.56 of its processor time and 1.27 of its bytes:
benchmarks/results/encoding_2cores.json."""
_X264_THREADS = 8
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
        # One scaler for all: a frame's own `reformat` builds one with a thread pool each time, 4 ms on 16 cores.
        self._scaler = VideoReformatter()
        self._frames: queue.Queue[av.VideoFrame | None] = queue.Queue(maxsize=16)
        self._received = 0
        self._failure: BaseException | None = None
        self._decoded = DecodedBeside()
        self._thread = threading.Thread(target=self._run, name="video-writer", daemon=True)

    def __enter__(self) -> VideoWriter:
        self._thread.start()
        return self

    def write(self, frames: np.ndarray[Any, Any]) -> None:
        """Convert frames and queue them for the encoder; wait while the queue is full.

        The colours are converted here, on the caller's thread: beside x264, not before it.

        Args:
            frames: uint8 (n, height, width, 3), RGB.

        Raises:
            DiskFullError: No room for the file.
            EngineError: The encoder failed.
        """
        for pixels in frames:
            try:
                frame = self._frame(pixels, self._received)
            except Exception as failure:  # PyAV's, Pillow's or the disk's
                raise self._error(failure) from failure
            self._received += 1
            self._put(frame)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._put(_END, wait_for_room=kind is None)
            self._thread.join()
            if kind is None:
                self._raise_failure()
                self._decoded.check(self._video, self._num_frames)
        except BaseException:
            self._remove()
            raise
        if kind is not None:
            self._remove()

    def _put(self, frame: av.VideoFrame | None, *, wait_for_room: bool = True) -> None:
        while True:
            if wait_for_room:
                self._raise_failure()
            elif not self._thread.is_alive():
                return
            with contextlib.suppress(queue.Full):
                self._frames.put(frame, timeout=0.2)
                return

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._error(self._failure) from self._failure

    def _error(self, failure: BaseException) -> DiskFullError | EngineError:
        if isinstance(failure, OSError) and failure.errno in DiskFullError.errnos:
            return DiskFullError(
                f"no room left while writing {self._video}; free some space and submit the job again"
            )
        return EngineError(f"encoding {self._video.name} failed: {failure}")

    def _run(self) -> None:
        try:
            self._encode()
        except BaseException as failure:  # noqa: BLE001 (`_raise_failure` raises it in the caller's thread)
            self._failure = failure

    def _encode(self) -> None:
        with av.open(self._video, "w", format="mp4", options={"movflags": "+faststart"}) as container:
            container.metadata["comment"] = self._metadata
            stream = self._add_stream(container)
            with self._decoded.running(stream.codec_context.extradata or b""):
                while (frame := self._frames.get()) is not _END:
                    self._mux(container, stream.encode(frame))
                self._mux(container, stream.encode(None))

    def _add_stream(self, container: Any) -> Any:
        stream = container.add_stream("libx264", rate=self._fps)
        stream.width, stream.height = self._size
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, self._fps)
        context = stream.codec_context
        context.options = _X264
        context.gop_size = self._fps
        context.thread_type = "FRAME"  # PyAV asks for slices, which cost x264 time and bytes
        context.thread_count = _X264_THREADS
        context.color_range = ColorRange.MPEG
        context.colorspace, context.color_primaries, context.color_trc = 1, 1, 1  # BT.709, ITU-T H.273
        context.open()
        return stream

    def _mux(self, container: Any, packets: list[Any]) -> None:
        for packet in packets:
            self._decoded.feed(bytes(packet))
            container.mux(packet)

    def _frame(self, pixels: np.ndarray[Any, Any], index: int) -> av.VideoFrame:
        width, height = self._size
        rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame = self._scaler.reformat(
            rgb,
            width,
            height,
            "yuv420p",
            interpolation=Interpolation.BICUBIC,
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
        )
        frame.pts, frame.time_base = index, Fraction(1, self._fps)
        if index == self._num_frames // 2:
            still = rgb.reformat(width, height, "rgb24", interpolation=Interpolation.BICUBIC)
            Image.fromarray(still.to_ndarray()).save(
                self._poster, "JPEG", quality=POSTER_QUALITY, optimize=True
            )
        return frame

    def _remove(self) -> None:
        self._video.unlink(missing_ok=True)
        self._poster.unlink(missing_ok=True)
