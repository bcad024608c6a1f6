"""Reading safetensors files into tensors that wait for their bytes, with several threads at once.

The library's own reader copies one tensor after another out of mapped memory (safetensors #729: page faults in the
middle of each copy). Threads that read long runs into pinned buffers keep storage, memory and the link to the device
busy at once, and each tensor of main memory is read in place. fastsafetensors (arXiv 2505.23072) argues the same and
hands out views of one buffer; here each tensor has memory of its own, so that what the engine repacks can be freed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import torch

from anime_studio.core.errors import CheckpointError
from anime_studio.engine.shards import Entry, flat_bytes

READ_BYTES: Final = 16 * 1024**2
"""Of one run: long enough for storage and link, short enough that eight pinned buffers are made in no time."""
READ_THREADS: Final = 8
"""One copies out of the page cache at about 5 GB/s; eight are more than the link to one device takes."""


@dataclass(frozen=True, slots=True)
class _Run:
    """Bytes of one file that are read at once, and the tensor bytes they become."""

    begin: int
    end: int
    pieces: list[tuple[int, torch.Tensor]]
    """Where in the file each piece begins, and the memory it fills."""


class ShardReader:
    """Reads files into tensors that wait for their bytes, several runs at once.

    Leaving it waits for everything asked for; what failed is raised then.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._threads = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="shards")
        self._own = threading.local()
        self._asked: list[Future[None]] = []
        # What was queued on the device before may still use memory that the destinations were given.
        self._before = torch.cuda.current_stream(device) if device.type == "cuda" else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=True, cancel_futures=error is not None)
        if error is None:
            for asked in self._asked:
                asked.result()

    def read(
        self, path: Path, entries: Mapping[str, Entry], destinations: Mapping[str, torch.Tensor]
    ) -> None:
        """Begin to fill *destinations* from the file; they are full once the reader was left.

        Args:
            path: The file.
            entries: Its header.
            destinations: Contiguous, of the entries' dtypes and shapes, on any device; by name, others ignored.

        Raises:
            CheckpointError: On leaving: the file ends early or cannot be read.
        """
        for run in _runs(
            {name: entry for name, entry in entries.items() if name in destinations}, destinations
        ):
            self._asked.append(self._threads.submit(self._fill, path, run))

    def _fill(self, path: Path, run: _Run) -> None:
        try:
            with path.open("rb", buffering=0) as file:
                if all(piece.device.type == "cpu" for _, piece in run.pieces):
                    for begin, piece in run.pieces:
                        _read_exactly(file, piece, begin)
                else:
                    self._through_pinned(file, run)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error

    def _through_pinned(self, file: FileIO, run: _Run) -> None:
        if not hasattr(self._own, "buffer"):
            self._own.buffer = torch.empty(READ_BYTES, dtype=torch.uint8, pin_memory=True)
            self._own.stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        buffer, stream = self._own.buffer, self._own.stream
        _read_exactly(file, buffer[: run.end - run.begin], run.begin)
        with torch.cuda.stream(stream):
            stream.wait_stream(self._before)
            for begin, piece in run.pieces:
                at = begin - run.begin
                piece.copy_(buffer[at : at + len(piece)], non_blocking=True)
            stream.synchronize()  # the buffer is this thread's next


def _runs(entries: Mapping[str, Entry], destinations: Mapping[str, torch.Tensor]) -> Iterator[_Run]:
    """Cut a file at the ends of tensors and every `READ_BYTES`, and join neighbours up to that length."""
    pieces: list[tuple[int, torch.Tensor]] = []
    first = end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].begin):
        flat = flat_bytes(destinations[name])
        for at in range(0, len(flat), READ_BYTES):
            piece = flat[at : at + READ_BYTES]
            begin = entry.begin + at
            if pieces and (begin != end or begin + len(piece) - first > READ_BYTES):
                yield _Run(first, end, pieces)
                pieces = []
            if not pieces:
                first = begin
            pieces.append((begin, piece))
            end = begin + len(piece)
    if pieces:
        yield _Run(first, end, pieces)


def _read_exactly(file: FileIO, into: torch.Tensor, begin: int) -> None:
    view: memoryview = into.numpy().data
    file.seek(begin)
    while view:
        count = file.readinto(view)
        if not count:
            raise CheckpointError(f"{file.name} ends {len(view)} bytes early")
        view = view[count:]
