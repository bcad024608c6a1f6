"""Memory for the driver to lock; the driver is not here, so its two calls are played, with what they refuse."""

import mmap
import re
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from anime_studio.engine.locked_memory import room


class Runtime:
    """Refuses an address that is locked already (cudaErrorHostMemoryAlreadyRegistered), and one that is not."""

    locked: ClassVar[set[int]] = set()

    def cudaHostRegister(self, address: int, size_bytes: int, flags: int) -> int:  # noqa: N802
        assert address not in self.locked and size_bytes > 0
        self.locked.add(address)
        return 0

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802
        self.locked.remove(address)
        return 0


@pytest.fixture(autouse=True)
def locked(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    monkeypatch.setattr(Runtime, "locked", set())
    monkeypatch.setattr(torch.cuda, "cudart", Runtime)
    monkeypatch.setattr(torch.cuda, "check_error", lambda status: None)
    return Runtime.locked


def test_memory_is_unlocked_before_it_goes_back(locked: set[int]):
    flat = room(3_000_000, locked=True)
    assert locked == {flat.data_ptr()}
    flat.fill_(7)
    assert flat.shape == (3_000_000,) and int(flat.sum()) == 21_000_000
    del flat
    assert locked == set()


def test_ordinary_memory_is_not_locked(locked: set[int]):
    assert len(room(64, locked=False)) == 64
    assert locked == set()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux has them")
def test_the_kernel_is_asked_for_huge_pages():
    flat = room(5 * 2**21, locked=True)
    flat.fill_(1)
    flags = next((flags for begin, end, flags in areas() if begin <= flat.data_ptr() < end), None)
    if flags is None:
        pytest.skip("this kernel's smaps has no VmFlags")
    assert "hg" in flags.split(), "MADV_HUGEPAGE, as proc_pid_smaps(5) shows it"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there are none")
def test_a_kernel_without_huge_pages_gives_ordinary_ones(monkeypatch: pytest.MonkeyPatch, locked: set[int]):
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", -1)  # an advice that this kernel does not know
    flat = room(4096, locked=True)
    assert locked == {flat.data_ptr()}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere torch asks")
def test_too_little_memory_is_said_as_such():
    with pytest.raises(MemoryError, match="no room for 4611686018427387904 bytes"):
        room(2**62, locked=True)


def areas() -> list[tuple[int, int, str]]:
    text = Path("/proc/self/smaps").read_text(encoding="utf-8")
    found = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) .*?^VmFlags: ([^\n]*)", text, re.MULTILINE | re.DOTALL)
    return [(int(begin, 16), int(end, 16), flags) for begin, end, flags in found]
