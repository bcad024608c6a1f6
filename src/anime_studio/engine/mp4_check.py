"""Proof that a finished MP4 decodes: its packets are decoded while the encoder makes the next ones.

What the encoder gives out is decoded at once, on a thread of its own, and hashed in the form that the file will hold.
When the file is finished, its packets are read back and hashed as well. The same hash means that the file holds exactly
what was decoded, so nothing is left to decode after the last frame: reading the packets takes a few milliseconds.

Sources: ISO/IEC 14496-15, 5.3 (in an MP4 each NAL unit has its length before it, four bytes as FFmpeg writes them);
ITU-T H.264, Annex B (the encoder's stream has a start code before each; a NAL unit never ends in a zero byte).
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import av

from anime_studio.core.errors import EngineError

_START_CODE: Final = b"\x00\x00\x01"
_END: Final = None


class DecodedBeside:
    """Decodes an encoder's packets as they come, and holds the finished file against them."""

    def __init__(self) -> None:
        self._packets: queue.Queue[bytes | None] = queue.Queue()
        self._frames, self._packet_count, self._digest = 0, 0, hashlib.sha256()
        self._failure: Exception | None = None

    @contextmanager
    def running(self, extradata: bytes) -> Iterator[None]:
        """Decode what is fed within the block; leaving it waits for the last packet.

        Args:
            extradata: The encoder's parameter sets, in Annex B form.
        """
        thread = threading.Thread(target=self._run, args=(extradata,), name="video-check", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._packets.put(_END)
            thread.join()

    def feed(self, packet: bytes) -> None:
        """Take the encoder's next packet."""
        self._packets.put(packet)

    def check(self, video: Path, num_frames: int) -> None:
        """Hold the finished file against what was decoded.

        Raises:
            EngineError: It does not decode, or holds other packets or another number of frames.
        """
        if self._failure is not None:
            raise EngineError(f"{video.name} does not decode: {self._failure}") from self._failure
        if self._frames != num_frames:
            raise EngineError(f"{video.name} decodes to {self._frames} frames, {num_frames} were written")
        if _read_back(video) != (self._packet_count, self._digest.digest()):
            raise EngineError(f"{video.name} holds other packets than were encoded: the disk is at fault")

    def _run(self, extradata: bytes) -> None:
        try:
            decoder = _strict_decoder(extradata)
            while (packet := self._packets.get()) is not _END:
                self._frames += len(decoder.decode(av.Packet(packet)))
                self._packet_count += 1
                self._digest.update(as_in_mp4(packet))
            self._frames += len(decoder.decode(None))
        except Exception as failure:  # noqa: BLE001 (`check` raises it in the caller's thread)
            self._failure = failure


def _strict_decoder(extradata: bytes) -> Any:
    decoder = av.CodecContext.create("h264", "r")
    decoder.extradata = extradata
    decoder.options = {"err_detect": "explode"}  # what is wrong is an error, not concealed
    decoder.thread_type = "AUTO"
    return decoder


def as_in_mp4(packet: bytes) -> bytes:
    """Return a packet of Annex B with lengths in place of start codes."""
    units = (unit.rstrip(b"\x00") for unit in packet.split(_START_CODE))
    return b"".join(len(unit).to_bytes(4, "big") + unit for unit in units if unit)


def _read_back(video: Path) -> tuple[int, bytes]:
    digest, count = hashlib.sha256(), 0
    try:
        with av.open(video) as container:
            for packet in container.demux(video=0):
                if packet.size:  # the last one of a stream is empty
                    digest.update(bytes(packet))
                    count += 1
    except (av.FFmpegError, OSError, IndexError) as error:
        raise EngineError(f"{video.name} cannot be read back: {error}") from error
    return count, digest.digest()
