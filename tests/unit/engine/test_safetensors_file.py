"""Shards hold what was given, as every other tool reads it, and are read back whole or not at all."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from anime_studio.checkpoints.manifest import FileEntry
from anime_studio.checkpoints.safetensors_header import read_header
from anime_studio.core.errors import CheckpointError
from anime_studio.engine.loading import parallel_reader
from anime_studio.engine.loading.parallel_reader import ParallelReader
from anime_studio.engine.loading.safetensors_file import write_shards
from support.engine import cut

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


def write(folder: Path, tensors: dict[str, torch.Tensor], shard_bytes: int) -> list[str]:
    return [name for name, _, _ in write_shards(folder, tensors, shard_bytes)]


def read(folder: Path, files: list[str], into: dict[str, torch.Tensor]) -> None:
    with ParallelReader(CPU) as reader:
        reader.read({folder / file: read_header(folder / file) for file in files}, into)


@pytest.mark.parametrize("shard_bytes", [1, 3000, 10**9])
def test_the_library_reads_what_is_written(tensors, shard_bytes, tmp_path):
    files = {name: entry for name, entry, _ in write_shards(tmp_path, tensors, shard_bytes)}

    loaded = {name: tensor for file in files for name, tensor in load_file(tmp_path / file).items()}
    assert loaded.keys() == tensors.keys()
    assert all(same(loaded[name], tensors[name]) for name in tensors)
    assert all(entry == FileEntry.of(tmp_path / file) for file, entry in files.items())


def test_shards_keep_to_their_size_and_a_larger_tensor_has_its_own(tensors, tmp_path):
    sizes = {name: size_bytes for name, _, size_bytes in write_shards(tmp_path, tensors, 3000)}

    for file, size_bytes in sizes.items():
        entries = read_header(tmp_path / file).values()
        assert size_bytes == sum(entry.end - entry.begin for entry in entries)
    *small, largest = sorted(sizes.values())
    assert largest == tensors["long"].nbytes and all(size_bytes <= 3000 for size_bytes in small)


@pytest.mark.parametrize("read_bytes", [64, 1000, 10**7])
@pytest.mark.parametrize("shard_bytes", [500, 10**9])
def test_every_cut_fills_the_same_tensors(tensors, read_bytes, shard_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr(parallel_reader, "READ_BYTES", read_bytes)
    files = write(tmp_path, tensors, shard_bytes)
    into = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}

    read(tmp_path, files, into)

    assert all(same(into[name], tensors[name]) for name in tensors)


def test_only_what_is_asked_for_is_read(tensors, tmp_path):
    into = {"long": torch.zeros(5000)}

    read(tmp_path, write(tmp_path, tensors, 10**9), into)

    assert same(into["long"], tensors["long"])


@pytest.mark.parametrize(
    ("damage", "refusal"),
    [(lambda path: cut(path, 100), r"ends \d+ bytes early"), (Path.unlink, "cannot be read")],
)
def test_a_file_that_is_cut_or_deleted_while_it_is_read_is_refused(tensors, tmp_path, damage, refusal):
    (file,) = write(tmp_path, tensors, 10**9)
    entries = read_header(tmp_path / file)
    damage(tmp_path / file)

    with pytest.raises(CheckpointError, match=f"{file} {refusal}"), ParallelReader(CPU) as reader:
        reader.read({tmp_path / file: entries}, tensors)
