"""What a fetch of weights shows: bytes to come and room for them, then a bar by bytes, or a line for each tenth."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from anime_studio.checkpoints.hub import Listing
from anime_studio.checkpoints.store import Report
from anime_studio.cli.output import Output

LOOK_EVERY_S: Final = 1.0


class FetchReport(Report):
    """Shows a fetch to people."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def note(self, text: str) -> None:
        """Show a sentence."""
        self._output.info(text)

    @contextmanager
    def following(self, listing: Listing, folder: Path) -> Iterator[None]:
        """Show how many bytes have come, by what lies in *folder*."""
        to_come, free = listing.size_bytes - listing.bytes_in(folder), shutil.disk_usage(folder).free
        self._output.info(
            f"{listing.repo_id} at {listing.commit}: {len(listing.files)} files, {to_come / 1e9:.2f} GB to come, "
            f"{free / 1e9:.1f} GB free in {folder.parent}"
        )
        with self._shown(listing.size_bytes) as show, _repeated(lambda: show(listing.bytes_in(folder))):
            yield

    @contextmanager
    def _shown(self, total_bytes: int) -> Iterator[Callable[[int], None]]:
        if not self._output.people.is_terminal or self._output.as_json:
            yield _Tenths(self._output, total_bytes)
            return
        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._output.people, transient=True) as bar:
            task = bar.add_task("", total=total_bytes)
            yield lambda done_bytes: bar.update(task, completed=done_bytes)


class _Tenths:
    """Prints a line for each tenth."""

    def __init__(self, output: Output, total_bytes: int) -> None:
        self._output, self._total_bytes, self._shown = output, total_bytes, 0

    def __call__(self, done_bytes: int) -> None:
        tenths = done_bytes * 10 // max(self._total_bytes, 1)
        if tenths > self._shown:
            self._shown = tenths
            self._output.info(f"{done_bytes / 1e9:.2f} of {self._total_bytes / 1e9:.2f} GB")


@contextmanager
def _repeated(look: Callable[[], None]) -> Iterator[None]:
    """Call *look* now and again while the context lasts, and once at its end."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(LOOK_EVERY_S):
            look()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
        look()
    finally:
        ended.set()
        thread.join()
