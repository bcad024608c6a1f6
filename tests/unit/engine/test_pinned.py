"""Pinned host memory; the driver is not here, so its two calls are faked, with what they refuse."""

import mmap
import re
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from anime_studio.engine.memory.pinned import allocate


class FakeRuntime:
    """Refuses to pin an address twice (cudaErrorHostMemoryAlreadyRegistered), and to unpin one that is not pinned."""

    pinned: ClassVar[set[int]] = set()

    def cudaHostRegister(self, address: int, size_bytes: int, flags: int) -> int:  # noqa: N802
        assert address not in self.pinned and size_bytes > 0
        self.pinned.add(address)
        return 0

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802
        self.pinned.remove(address)
        return 0


@pytest.fixture(autouse=True)
def pinned(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    monkeypatch.setattr(FakeRuntime, "pinned", set())
    monkeypatch.setattr(torch.cuda, "cudart", FakeRuntime)
    monkeypatch.setattr(torch.cuda, "check_error", lambda status: None)
    return FakeRuntime.pinned


def test_memory_is_unpinned_before_it_is_unmapped(pinned: set[int]):
    buffer = allocate(3_000_000, pinned=True)
    assert pinned == {buffer.data_ptr()}
    buffer.fill_(7)
    assert buffer.shape == (3_000_000,) and int(buffer.sum()) == 21_000_000
    del buffer
    assert pinned == set()


def test_ordinary_memory_is_not_pinned(pinned: set[int]):
    assert len(allocate(64, pinned=False)) == 64
    assert pinned == set()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux has them")
def test_the_kernel_is_asked_for_huge_pages():
    buffer = allocate(5 * 2**21, pinned=True)
    buffer.fill_(1)
    flags = next((flags for begin, end, flags in areas() if begin <= buffer.data_ptr() < end), None)
    if flags is None:
        pytest.skip("this kernel's smaps has no VmFlags")
    assert "hg" in flags.split(), "MADV_HUGEPAGE, as proc_pid_smaps(5) shows it"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there are none")
def test_a_kernel_without_huge_pages_gives_ordinary_ones(monkeypatch: pytest.MonkeyPatch, pinned: set[int]):
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", -1)  # an advice that this kernel does not know
    buffer = allocate(4096, pinned=True)
    assert pinned == {buffer.data_ptr()}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere torch asks")
def test_too_little_memory_is_a_memory_error():
    with pytest.raises(MemoryError, match="no room for 4611686018427387904 bytes"):
        allocate(2**62, pinned=True)


def areas() -> list[tuple[int, int, str]]:
    text = Path("/proc/self/smaps").read_text(encoding="utf-8")
    found = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) .*?^VmFlags: ([^\n]*)", text, re.MULTILINE | re.DOTALL)
    return [(int(begin, 16), int(end, 16), flags) for begin, end, flags in found]
