"""A prepared checkpoint has its source's upscaler, or the published one where that is installed."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from structlog.testing import capture_logs

from anime_studio.checkpoints.manifest import Manifest, Packing
from anime_studio.checkpoints.prepared import verify_prepared
from anime_studio.checkpoints.published_upscaler import LICENSE, PublishedUpscaler, find_published
from anime_studio.checkpoints.store import Checkpoint
from anime_studio.engine.acceleration import packing_for
from anime_studio.engine.loading.components import load_components, load_for_a_gpu
from anime_studio.engine.loading.ncnn import convert
from anime_studio.engine.loading.prepare import prepare
from anime_studio.telemetry import LogEvent
from support.upscaler import WEIGHTS, add_upscaler
from support.upscaler_package import install_package

CPU = torch.device("cpu")


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PublishedUpscaler:
    install_package(tmp_path / "site", monkeypatch)
    found = find_published()
    assert found is not None
    return found


@pytest.fixture
def with_its_own(checkpoint: Checkpoint) -> Checkpoint:
    add_upscaler(checkpoint.folder)
    Manifest.of(checkpoint.folder).write(checkpoint.folder)
    return checkpoint


def test_a_source_with_an_upscaler_keeps_it(with_its_own: Checkpoint, published: PublishedUpscaler) -> None:
    folder = prepare(with_its_own, packing_for("cpu"), published=published)

    own = with_its_own.folder / "upscaler"
    for path in own.iterdir():
        assert (folder / "upscaler" / path.name).read_bytes() == path.read_bytes()
    assert {f"upscaler/{path.name}" for path in own.iterdir()} < Manifest.read(folder).files.keys()
    with capture_logs() as lines:
        loaded = load_components(with_its_own, CPU)
    assert (loaded.folder, lines) == (folder, [])
    assert loaded.upscaler is not None
    given = load_file(own / WEIGHTS)
    assert all(
        torch.equal(tensor, given[name].float()) for name, tensor in loaded.upscaler.state_dict().items()
    )


def test_the_published_one_is_written_named_and_loaded(
    checkpoint: Checkpoint, published: PublishedUpscaler
) -> None:
    folder = prepare(checkpoint, packing_for("cpu"), published=published)

    assert verify_prepared(checkpoint, packing_for("cpu")) == [folder]
    config = json.loads((folder / "upscaler" / "config.json").read_text())
    assert config["license"] == LICENSE
    converted = convert(published.network, published.weights)
    assert config.items() > dataclasses.asdict(converted.config).items()
    loaded = load_components(checkpoint, CPU)
    assert loaded.folder == folder
    assert loaded.upscaler is not None
    for name, tensor in loaded.upscaler.state_dict().items():
        assert torch.equal(tensor, converted.tensors[name].float())
    assert "upscaler" not in (checkpoint.folder / "model_index.json").read_text(), (
        "the source stays as it was"
    )


def test_for_a_gpu_it_waits_in_host_memory_in_float16(
    checkpoint: Checkpoint, published: PublishedUpscaler
) -> None:
    packing = Packing("plain", "bfloat16")
    prepare(checkpoint, packing, published=published)

    loaded = load_for_a_gpu(checkpoint, packing, with_text=False)

    assert loaded is not None
    assert loaded.models["upscaler"].dtype is torch.float16


def test_prepared_before_the_package_came_it_is_prepared_again_and_not_without_need(
    checkpoint: Checkpoint, published: PublishedUpscaler
) -> None:
    packing = packing_for("cpu")
    folder = prepare(checkpoint, packing)
    assert not (folder / "upscaler").exists()

    prepare(checkpoint, packing, published=published)
    first = (folder / "upscaler" / WEIGHTS).stat().st_mtime_ns
    prepare(checkpoint, packing, published=published)
    prepare(checkpoint, packing)  # the package is gone: what was made with it stays

    assert (folder / "upscaler" / WEIGHTS).stat().st_mtime_ns == first


def test_one_that_lost_its_upscaler_is_not_loaded_and_prepared_again(with_its_own: Checkpoint) -> None:
    packing = packing_for("cpu")
    folder = prepare(with_its_own, packing)
    for path in (folder / "upscaler").iterdir():  # as an earlier version of this program prepared it
        path.unlink()
    manifest = Manifest.read(folder)
    kept = {name: entry for name, entry in manifest.files.items() if not name.startswith("upscaler/")}
    dataclasses.replace(manifest, files=kept).write(folder)

    with capture_logs() as lines:
        loaded = load_components(with_its_own, CPU)

    assert loaded.folder == with_its_own.folder
    assert loaded.upscaler is not None
    assert [line["event"] for line in lines] == [LogEvent.ENGINE_PREPARED_REFUSED]
    prepare(with_its_own, packing)
    assert load_components(with_its_own, CPU).folder == folder
