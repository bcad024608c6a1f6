"""Embeddings are computed once, stored within bounds and only if they are finite, whoever asks and however many."""

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from anime_studio.checkpoints import manifest
from anime_studio.checkpoints.store import Checkpoint
from anime_studio.core.embeddings import EmbeddingsBounds
from anime_studio.core.errors import ConfigurationError, EngineError
from anime_studio.core.recipes import TINY_RANDOM
from anime_studio.engine.embeddings_cache import EmbeddingsCache, remove_unused
from anime_studio.engine.engine import Engine
from anime_studio.engine.loading.tiny_random import write_tiny_random
from anime_studio.engine.startup import load_engine
from anime_studio.on_laptop import worker_process
from anime_studio.on_modal.settings import ModalSettings
from anime_studio.settings import Settings
from support.engine import spec_of, tiny_engine

CPU = torch.device("cpu")
EMBEDDINGS = torch.ones(1, 4, 8)
"""128 bytes."""


def test_nan_embeddings_are_an_error_and_never_cached(tiny_checkpoint, tmp_path):
    engine = tiny_engine(tiny_checkpoint, cache_dir=tmp_path / "cache")
    norm = engine.components.text_encoder.encoder.final_layer_norm
    with_nan = norm.register_forward_hook(lambda *seen: torch.full_like(seen[2], torch.nan))

    with pytest.raises(EngineError, match="text encoder gave NaN"):
        engine.text.encode("a cat")

    with_nan.remove()
    assert engine.text.encode("a cat").isfinite().all(), "the prompt is not poisoned"


def test_nan_embeddings_on_the_disk_are_computed_again(tiny_checkpoint, tmp_path):
    tiny_engine(tiny_checkpoint, cache_dir=tmp_path).text.encode("a cat")
    (file,) = tmp_path.iterdir()
    save_file({"embeddings": torch.full_like(load_file(file)["embeddings"], torch.nan)}, file)

    assert tiny_engine(tiny_checkpoint, cache_dir=tmp_path).text.encode("a cat").isfinite().all()
    assert load_file(file)["embeddings"].isfinite().all()


def test_embeddings_come_from_disk_the_second_time_and_damage_is_fixed(tiny_checkpoint, tmp_path):
    def embed(prompt: str = "a cat") -> tuple[torch.Tensor, Engine]:
        engine = tiny_engine(tiny_checkpoint, cache_dir=tmp_path)
        return engine.embed(spec_of(prompt=prompt))[0], engine

    computed, _ = embed()
    (stored,) = tmp_path.iterdir()
    _, engine = embed()
    engine.components.text_encoder.forward = None  # only the cache can answer now
    assert torch.equal(engine.embed(spec_of(prompt="a  cat "))[0], computed)

    stored.write_bytes(b"damaged")
    assert torch.equal(embed()[0], computed)
    assert stored.stat().st_size > 100


@pytest.mark.parametrize("with_manifest", [True, False])
def test_embeddings_of_replaced_weights_are_not_used(tmp_path, with_manifest):
    def embed(seed: int, cache: Path | None) -> torch.Tensor:
        folder = write_tiny_random(tmp_path / str(seed) / "same-name", seed=seed)
        if not with_manifest:
            (folder / manifest.MANIFEST).unlink()
        return tiny_engine(folder, cache_dir=cache).embed(spec_of())[0]

    before, after = embed(0, tmp_path / "cache"), embed(1, tmp_path / "cache")

    assert not torch.equal(before, after)
    assert torch.equal(after, embed(1, None))


def test_the_cache_of_embeddings_is_bounded_and_forgets_what_was_unused_for_longest(tmp_path):
    for index in range(6):
        (tmp_path / f"{index}.safetensors").write_bytes(b"x" * 100)
        os.utime(tmp_path / f"{index}.safetensors", (1000 + index, 1000 + index))
    (tmp_path / "0.42.tmp").write_bytes(b"left by a killed process")
    os.utime(tmp_path / "0.42.tmp", (1, 1))

    remove_unused(tmp_path, max_count=4, max_bytes=10_000)
    assert sorted(path.name[0] for path in tmp_path.iterdir()) == ["2", "3", "4", "5"]

    remove_unused(tmp_path, max_count=4, max_bytes=250)
    assert sorted(path.name[0] for path in tmp_path.iterdir()) == ["4", "5"]


def test_embeddings_that_are_used_again_stay_in_the_cache(tiny_checkpoint, tmp_path):
    tiny_engine(tiny_checkpoint, cache_dir=tmp_path).embed(spec_of())
    (file,) = tmp_path.iterdir()
    os.utime(file, (1, 1))

    tiny_engine(tiny_checkpoint, cache_dir=tmp_path).embed(spec_of())

    assert file.stat().st_mtime > 1


def test_prompts_that_look_the_same_share_their_embeddings(tiny_checkpoint, tmp_path):
    engine = tiny_engine(tiny_checkpoint, cache_dir=tmp_path)
    for prompt in ("a cat", "a c\u200bat \U000e0000"):
        engine.embed(spec_of().model_copy(update={"prompt_used": prompt}))

    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_stored_nowhere(tmp_path, value):
    cache = EmbeddingsCache(folder=tmp_path)
    wrong = EMBEDDINGS.clone()
    wrong[0, 3, 7] = value

    with pytest.raises(EngineError, match="NaN or infinity"):
        cache.put("a", wrong)

    assert cache.get("a", CPU) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("bounds", "stored"),
    [
        ({"memory_max_count": 2}, "bd"),
        ({"memory_max_bytes": 3 * 128 - 1}, "bd"),
        ({"memory_max_bytes": 3 * 128}, "bcd"),
        ({"memory_max_count": 0}, ""),
    ],
)
def test_memory_is_bounded_and_what_was_used_last_stays(bounds, stored):
    cache = EmbeddingsCache(EmbeddingsBounds(**bounds))
    for key in "abc":
        cache.put(key, EMBEDDINGS)
    cache.get("b", CPU)
    cache.put("d", EMBEDDINGS)

    assert [key for key in "abcd" if cache.get(key, CPU) is not None] == list(stored)


def test_the_same_key_again_takes_no_more_room():
    cache = EmbeddingsCache(EmbeddingsBounds(memory_max_bytes=2 * 128))
    for key in "abbbb":
        cache.put(key, EMBEDDINGS)

    assert cache.get("a", CPU) is not None


def in_threads(count: int, work: Callable[[int], object]) -> list[object]:
    """Do *work* in as many threads, which begin together and take turns as often as Python lets them."""
    begin, before = threading.Barrier(count), sys.getswitchinterval()

    def begun(number: int) -> object:
        begin.wait()
        return work(number)

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(count) as threads:
            return list(threads.map(begun, range(count)))
    finally:
        sys.setswitchinterval(before)


def test_threads_that_ask_for_the_same_prompts_compute_each_once(tiny_checkpoint, tmp_path):
    text = tiny_engine(tiny_checkpoint, cache_dir=tmp_path).text
    prompts = [f"a cat, {number}" for number in range(12)]
    expected = {prompt: text.compute(prompt) for prompt in prompts}
    forwards: list[object] = []
    encoder = tiny_engine(tiny_checkpoint, cache_dir=tmp_path)
    encoder.components.text_encoder.register_forward_hook(lambda *_: forwards.append(None))

    found = in_threads(4, lambda _: [encoder.text.encode(prompt) for prompt in prompts])

    assert len(forwards) == len(prompts)
    for embeddings in found:
        assert all(map(torch.equal, embeddings, expected.values()))


def test_threads_over_a_cache_that_forgets_at_once_get_the_right_text(tiny_checkpoint, tmp_path):
    cache = EmbeddingsCache(EmbeddingsBounds(max_count=1, memory_max_count=1), tmp_path)
    text = load_engine(TINY_RANDOM, Checkpoint.at(tiny_checkpoint), CPU, cache=cache).text
    prompts = [f"a cat, {number}" for number in range(4)]
    expected = {prompt: text.compute(prompt) for prompt in prompts}

    def ask(number: int) -> bool:
        order = prompts[number:] + prompts[:number]
        return all(torch.equal(text.encode(prompt), expected[prompt]) for prompt in order * 5)

    assert all(in_threads(4, ask))
    assert len(list(tmp_path.iterdir())) == 1


def test_tokens_are_counted_in_full_while_another_thread_truncates(tiny_checkpoint):
    text = tiny_engine(tiny_checkpoint).text
    prompt = "cat " * TINY_RANDOM.max_sequence_length
    count = text.count_tokens(prompt)

    def ask(number: int) -> bool:
        if number % 2:
            return all(text.compute(prompt).isfinite().all() for _ in range(40))
        return all(text.count_tokens(prompt) == count for _ in range(400))

    assert all(in_threads(4, ask))


def test_the_bounds_are_settings_and_reach_the_engine_of_a_worker(monkeypatch, tiny_checkpoint, tmp_path):
    monkeypatch.setenv("ANIME_STUDIO_EMBEDDINGS_MAX_COUNT", "2")
    settings = Settings(recipe="tiny-random", device="cpu", data_dir=tmp_path)
    engine = worker_process.load_engine(TINY_RANDOM, Checkpoint.at(tiny_checkpoint), settings)

    for prompt in ("a cat", "a dog", "a bird"):
        engine.text.encode(prompt)

    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_deployment_passes_the_bounds_on(monkeypatch):
    monkeypatch.setenv("ANIME_STUDIO_EMBEDDINGS_MEMORY_MAX_BYTES", "1000")

    assert ModalSettings.read().embeddings_bounds() == EmbeddingsBounds(memory_max_bytes=1000)
    assert ModalSettings.read().as_environment()["ANIME_STUDIO_EMBEDDINGS_MEMORY_MAX_BYTES"] == "1000"
    with pytest.raises(ConfigurationError, match="ANIME_STUDIO_EMBEDDINGS_MAX_COUNT"):
        monkeypatch.setenv("ANIME_STUDIO_EMBEDDINGS_MAX_COUNT", "-1")
        ModalSettings.read()
