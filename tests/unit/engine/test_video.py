"""The same frames give the same bytes everywhere, and no file leaves the writer that was not decoded."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from anime_studio.core.errors import EngineError
from anime_studio.engine.mp4_check import DecodedBeside, as_in_mp4
from anime_studio.engine.video import VideoWriter

SIZE, FRAMES = (96, 64), 33


def frames() -> np.ndarray:
    """A pattern that moves, with noise: something for every part of the encoder to decide."""
    chance = np.random.default_rng(0)
    still = np.kron(chance.integers(0, 256, (8, 12, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    moving = np.stack([np.roll(still, 3 * index, axis=1) for index in range(FRAMES)])
    return np.clip(moving + chance.normal(0, 4, moving.shape), 0, 255).astype(np.uint8)


def write(folder: Path, *, num_frames: int = FRAMES) -> Path:
    video = folder / "clip.mp4"
    writer = VideoWriter(
        video, folder / "poster.jpg", size=SIZE, fps=16, num_frames=num_frames, metadata="test"
    )
    with writer:
        writer.write(frames())
    return video


def sha256(video: Path) -> str:
    return hashlib.sha256(video.read_bytes()).hexdigest()


def test_the_same_frames_give_the_same_bytes_in_every_process_and_on_any_cores(tmp_path):
    first, second = sha256(write(tmp_path)), sha256(write(tmp_path))

    ran = subprocess.run([sys.executable, __file__, str(tmp_path)], capture_output=True, text=True)

    assert ran.returncode == 0, ran.stderr
    assert first == second == ran.stdout.strip()


def test_a_clip_decodes_to_the_frames_that_went_in(tmp_path):
    with av.open(write(tmp_path)) as container:
        seen = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]

    assert len(seen) == FRAMES
    assert np.abs(np.stack(seen).astype(int) - frames()).mean() < 12


def test_a_clip_that_lacks_frames_is_not_left_behind(tmp_path):
    with pytest.raises(EngineError, match=f"decodes to {FRAMES} frames, {FRAMES + 1} were written"):
        write(tmp_path, num_frames=FRAMES + 1)

    assert not list(tmp_path.iterdir())


def decoded(video: Path, spoil=lambda packet, index: packet) -> DecodedBeside:
    """What the writer's check has seen when it was given the packets of *video*, spoilt on their way."""
    check = DecodedBeside()
    with av.open(video) as container:
        stream = container.streams.video[0]
        annex_b = av.BitStreamFilterContext("h264_mp4toannexb", stream)
        packets = [part for packet in container.demux(stream) for part in annex_b.filter(packet)]
        with check.running(b""):  # here parameter sets come with each keyframe
            for index, packet in enumerate(packets):
                check.feed(spoil(bytes(packet), index))
    return check


@pytest.mark.parametrize("spoilt", [0, 16, 20])
def test_a_packet_that_does_not_decode_condemns_the_clip(tmp_path, spoilt):
    video = write(tmp_path)

    def spoil(packet, index):
        half = len(packet) // 2
        return packet[:half] + bytes(byte ^ 0x55 for byte in packet[half:]) if index == spoilt else packet

    with pytest.raises(EngineError, match="does not decode"):
        decoded(video, spoil).check(video, FRAMES)


def test_a_file_that_holds_other_bytes_than_were_encoded_is_found(tmp_path):
    video = tmp_path / "clip.mp4"
    check = VideoWriterAt(video).check
    check.check(video, FRAMES)
    content = bytearray(video.read_bytes())
    content[len(content) // 2] ^= 1
    video.write_bytes(content)

    with pytest.raises(EngineError, match="holds other packets than were encoded"):
        check.check(video, FRAMES)


def test_a_file_cut_short_is_found(tmp_path):
    video = tmp_path / "clip.mp4"
    check = VideoWriterAt(video).check
    video.write_bytes(video.read_bytes()[:-1000])

    with pytest.raises(EngineError, match=r"holds other packets|cannot be read back"):
        check.check(video, FRAMES)


class VideoWriterAt:
    """A clip encoded at *video* by PyAV alone, and the check that saw its packets."""

    def __init__(self, video: Path) -> None:
        self.check = DecodedBeside()
        with av.open(video, "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=16)
            stream.width, stream.height = SIZE
            stream.codec_context.open()
            with self.check.running(stream.codec_context.extradata):
                for pixels in [*frames(), None]:
                    frame = None if pixels is None else av.VideoFrame.from_ndarray(pixels, format="rgb24")
                    for packet in stream.encode(frame):
                        self.check.feed(bytes(packet))
                        container.mux(packet)


def test_start_codes_of_either_length_become_lengths():
    packet = b"\x00\x00\x00\x01\x67\x64" + b"\x00\x00\x01\x68\xee" + b"\x00\x00\x00\x01\x65\x88\x80"

    assert as_in_mp4(packet) == b"\0\0\0\2\x67\x64" + b"\0\0\0\2\x68\xee" + b"\0\0\0\3\x65\x88\x80"


if __name__ == "__main__":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    folder = Path(sys.argv[1]) / "other"
    folder.mkdir()
    print(sha256(write(folder)))
