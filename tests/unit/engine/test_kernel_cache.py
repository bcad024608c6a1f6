"""A file of kernels is used whole and by what it was made for, or not at all."""

from pathlib import Path

import pytest
import torch
from structlog.testing import capture_logs

from anime_studio.core.decoders import Decoder
from anime_studio.core.recipes import TINY_RANDOM
from anime_studio.engine import kernel_cache, startup
from anime_studio.engine.kernel_cache import KernelCache, code_hash, environment, made_for
from anime_studio.telemetry import LogEvent
from support.engine import tiny_engine

MADE_FOR = {"card": "NVIDIA L4, 8.9", "torch": "2.11.0"}


def compiled(local: Path) -> dict[Path, bytes]:
    """Write what a compiler would, and return it."""
    files = {Path("triton/ab/kernel.cubin"): b"\x7fELF" * 1000, Path("inductor/fxgraph/c/d"): b"graph"}
    for name, content in files.items():
        (local / name).parent.mkdir(parents=True)
        (local / name).write_bytes(content)
    return files


def kept(tmp_path: Path, made: dict[str, str] = MADE_FOR) -> KernelCache:
    """A cache of another process, whose file is in the folder."""
    cache = KernelCache(tmp_path / "kept", tmp_path / "first", made)
    compiled(tmp_path / "first")
    content = cache.pack()
    assert content is not None
    cache.file.parent.mkdir()
    cache.file.write_bytes(content)
    return cache


def test_what_one_process_compiled_another_one_finds(tmp_path: Path):
    kept(tmp_path)
    cache = KernelCache(tmp_path / "kept", tmp_path / "second", MADE_FOR)

    assert cache.is_stored and cache.restore()

    for name, content in compiled(tmp_path / "expected").items():
        assert (tmp_path / "second" / name).read_bytes() == content
    assert not list(tmp_path.glob("second.*")), "nothing half is left"


def test_a_process_that_compiled_something_already_keeps_it_and_gets_the_rest(tmp_path: Path):
    kept(tmp_path)
    cache = KernelCache(tmp_path / "kept", tmp_path / "second", MADE_FOR)
    own = tmp_path / "second" / "triton" / "ab" / "kernel.cubin"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"compiled here")

    assert cache.restore()

    assert own.read_bytes() == b"compiled here"
    assert (tmp_path / "second" / "inductor" / "fxgraph" / "c" / "d").read_bytes() == b"graph"


def test_a_file_is_added_once(tmp_path: Path):
    kept(tmp_path)
    cache = KernelCache(tmp_path / "kept", tmp_path / "second", MADE_FOR)
    assert cache.restore()
    cache.file.write_bytes(b"other kernels")

    with capture_logs() as lines:
        assert cache.restore()

    assert lines == []


@pytest.mark.parametrize(
    "damage", ["cut", "changed", "empty", "no file of kernels", "of another card", "a folder"]
)
def test_a_damaged_or_foreign_file_is_refused_whole(tmp_path: Path, damage: str):
    file = kept(tmp_path).file
    content = file.read_bytes()
    match damage:
        case "cut":
            file.write_bytes(content[:-100])
        case "changed":
            file.write_bytes(content[:-100] + bytes([content[-100] ^ 1]) + content[-99:])
        case "empty":
            file.write_bytes(b"")
        case "no file of kernels":
            file.write_bytes(b"\xff\xfe\n\x00" * 50)
        case "of another card":
            (tmp_path / "other").mkdir()
            kept(tmp_path / "other", {**MADE_FOR, "card": "NVIDIA H100"}).file.rename(file)
        case "a folder":
            file.unlink()
            file.mkdir()
    cache = KernelCache(tmp_path / "kept", tmp_path / "second", MADE_FOR)

    with capture_logs() as lines:
        assert not cache.restore()

    assert [line["event"] for line in lines] == [LogEvent.KERNELS_REFUSED]
    assert not (tmp_path / "second").exists() and not list(tmp_path.glob("second.*"))


def test_without_a_file_there_is_nothing_to_say(tmp_path: Path):
    cache = KernelCache(tmp_path / "kept", tmp_path / "second", MADE_FOR)

    with capture_logs() as lines:
        assert not cache.restore()

    assert lines == [] and not cache.is_stored


def test_a_process_that_compiled_nothing_packs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cache = KernelCache(tmp_path / "kept", tmp_path / "local", MADE_FOR)
    assert cache.pack() is None
    (tmp_path / "local" / "inductor").mkdir(parents=True)
    assert cache.pack() is None, "folders alone are no kernels"
    compiled(tmp_path / "local" / "more")
    monkeypatch.setattr(kernel_cache, "MOST_BYTES", 100)
    assert cache.pack() is None, "far too much is not kept"


@pytest.mark.parametrize("part", sorted(made_for(TINY_RANDOM, Decoder.FULL, torch.device("cpu"))))
def test_each_part_of_what_it_is_made_for_has_a_file_of_its_own(tmp_path: Path, part: str):
    mine = made_for(TINY_RANDOM, Decoder.FULL, torch.device("cpu"))
    other = {**mine, part: "another"}
    assert KernelCache(tmp_path, tmp_path, mine).file != KernelCache(tmp_path, tmp_path, other).file
    assert KernelCache(tmp_path, tmp_path, mine).file == KernelCache(tmp_path, tmp_path, dict(mine)).file


def test_the_hash_of_the_code_follows_each_file(tmp_path: Path):
    (tmp_path / "decoder").mkdir()
    (tmp_path / "decoder" / "kernels.py").write_text("BLOCK = 64\n")
    before = code_hash(tmp_path)
    assert code_hash(tmp_path) == before
    (tmp_path / "decoder" / "kernels.py").write_text("BLOCK = 128\n")
    assert code_hash(tmp_path) != before
    assert code_hash() == made_for(TINY_RANDOM, Decoder.FULL, torch.device("cpu"))["code"]


def test_the_variables_name_a_folder_for_each_compiler(tmp_path: Path):
    assert environment(tmp_path) == {
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor"),
        "TRITON_CACHE_DIR": str(tmp_path / "triton"),
    }


@pytest.mark.parametrize(("every_shape", "shapes"), [(True, 2), (False, 1)])
def test_with_kept_kernels_one_shape_is_warmed_up(tiny_checkpoint: Path, every_shape: bool, shapes: int):
    engine = tiny_engine(tiny_checkpoint)
    seen = []
    denoiser = engine.denoiser

    class Watched:
        condition = staticmethod(denoiser.condition)

        def __call__(self, latents: torch.Tensor, *rest: object) -> torch.Tensor:
            seen.append(tuple(latents.shape))
            return denoiser(latents, *rest)

    engine.denoiser = Watched()
    startup.warm_up(engine, every_shape=every_shape)
    assert len(set(seen)) == shapes == len(TINY_RANDOM.native_sizes) - (not every_shape)
