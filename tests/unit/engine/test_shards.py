"""Shards hold what was given, as every other tool reads it, and are read back whole or not at all."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from anime_studio.core.errors import CheckpointError
from anime_studio.engine import shard_reader
from anime_studio.engine.shard_reader import ShardReader
from anime_studio.engine.shards import read_header, write_shards

CPU = torch.device("cpu")
DTYPES = (torch.bfloat16, torch.float32, torch.float8_e4m3fn, torch.int8, torch.uint8)


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    many = {
        f"t{index}": torch.randint(-9, 9, (index % 50 + 1, 3), generator=generator).to(
            DTYPES[index % len(DTYPES)]
        )
        for index in range(60)
    }
    return many | {"scalar": torch.tensor(3.0), "none": torch.empty(0, 4), "long": torch.arange(5000.0)}


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    raw = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)]
    return (one.dtype, one.shape) == (other.dtype, other.shape) and torch.equal(*raw)


def write(folder: Path, tensors: dict[str, torch.Tensor], shard_bytes: int) -> dict[str, dict[str, object]]:
    return write_shards(folder, tensors, shard_bytes, written=lambda _: None)


@pytest.mark.parametrize("shard_bytes", [1, 3000, 10**9])
def test_the_library_reads_what_is_written(tensors, shard_bytes, tmp_path):
    files = write(tmp_path, tensors, shard_bytes)

    read = {name: tensor for file in files for name, tensor in load_file(tmp_path / file).items()}
    assert read.keys() == tensors.keys()
    assert all(same(read[name], tensors[name]) for name in tensors)
    for file, entry in files.items():
        content = (tmp_path / file).read_bytes()
        assert entry == {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_shards_keep_to_their_size_and_a_larger_tensor_has_its_own(tensors, tmp_path):
    told: list[int] = []
    files = write_shards(tmp_path, tensors, 3000, written=told.append)

    held = [sum(entry.end - entry.begin for entry in read_header(tmp_path / file).values()) for file in files]
    assert held == told
    assert sorted(held)[-1] == tensors["long"].nbytes
    assert all(size <= 3000 for size in sorted(held)[:-1])


@pytest.mark.parametrize("read_bytes", [64, 1000, 10**7])
@pytest.mark.parametrize("shard_bytes", [500, 10**9])
def test_every_cut_fills_the_same_tensors(tensors, read_bytes, shard_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_reader, "READ_BYTES", read_bytes)
    files = write(tmp_path, tensors, shard_bytes)
    waiting = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}

    with ShardReader(CPU) as reader:
        for file in files:
            reader.read(tmp_path / file, read_header(tmp_path / file), waiting)

    assert all(same(waiting[name], tensors[name]) for name in tensors)


def test_what_nobody_waits_for_is_not_read(tensors, tmp_path):
    (file,) = write(tmp_path, tensors, 10**9)
    waiting = {"long": torch.zeros(5000)}

    with ShardReader(CPU) as reader:
        reader.read(tmp_path / file, read_header(tmp_path / file), waiting)

    assert same(waiting["long"], tensors["long"])


def test_a_file_that_is_cut_while_it_is_read_is_refused(tensors, tmp_path):
    (file,) = write(tmp_path, tensors, 10**9)
    entries = read_header(tmp_path / file)
    waiting = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    with (tmp_path / file).open("r+b") as opened:
        opened.truncate((tmp_path / file).stat().st_size - 100)

    with pytest.raises(CheckpointError, match=rf"{file} ends \d+ bytes early"), ShardReader(CPU) as reader:
        reader.read(tmp_path / file, entries, waiting)


def test_a_file_that_goes_while_it_is_read_is_refused(tensors, tmp_path):
    (file,) = write(tmp_path, tensors, 10**9)
    entries = read_header(tmp_path / file)
    (tmp_path / file).unlink()

    with pytest.raises(CheckpointError, match=f"{file} cannot be read"), ShardReader(CPU) as reader:
        reader.read(tmp_path / file, entries, tensors)
