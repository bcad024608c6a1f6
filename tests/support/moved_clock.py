"""The wall clock of real processes, moved while they run: libfaketime reads the shift from a file.

Its monotonic clock stays true, as it does when a person or NTP sets a machine's clock.
Source: https://github.com/wolfcw/libfaketime, README, "Using the file-based configuration".
"""

from pathlib import Path

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
"""Of Debian's package `faketime`; empty where it is not installed."""


class MovedClock:
    """What a process needs in its environment, and the shift that it sees."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.move("+0")
        self.environment = {
            "LD_PRELOAD": str(LIBRARIES[0]),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_RESET": "1",
        }

    def move(self, shift: str) -> None:
        """Let the clock be off by *shift* from now on: `-10m`, `+1d`, `+0`."""
        partial = self._file.with_suffix(".partial")
        partial.write_text(shift)
        partial.replace(self._file)
