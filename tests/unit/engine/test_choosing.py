"""A damaged prepared form costs a slower start, never the start, and none of its bytes are loaded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from structlog.testing import capture_logs

from anime_studio import weights
from anime_studio.core.errors import CheckpointError
from anime_studio.core.recipes import TINY_RANDOM
from anime_studio.engine.acceleration import PLAIN
from anime_studio.engine.choosing import load_whole
from anime_studio.engine.preparing import prepare
from anime_studio.prepared import Forms, Packing
from anime_studio.telemetry import ENGINE_PREPARED_REFUSED

CPU = torch.device("cpu")
PACKING = Packing("plain", "float32")
REMEDY = "anime-studio weights prepare --recipe tiny-random"
SHARD = "transformer/00001.safetensors"


@pytest.fixture
def forms(tiny_checkpoint: Path, tmp_path: Path) -> Forms:
    source = Path(shutil.copytree(tiny_checkpoint, tmp_path / "tiny-random" / "random-0"))
    forms = Forms.of(TINY_RANDOM, source, tmp_path)
    prepare(forms, PACKING, shard_bytes=20_000)
    return forms


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x40
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def claim_the_future(path: Path) -> None:
    content = json.loads(path.read_text())
    content["layout"]["version"] = 2
    path.write_text(json.dumps(content))


def replace_a_header(path: Path) -> None:
    """Of the same size, so that a start that only looks at sizes meets it half-way through loading."""
    content = path.read_bytes()
    path.write_bytes(b"\xff" * 8 + content[8:])


def test_a_whole_form_is_loaded_without_a_word(forms):
    with capture_logs() as lines:
        components = load_whole(forms.source, forms, CPU, PLAIN)

    assert components.folder == forms.folder(PACKING)
    assert lines == []


@pytest.mark.parametrize(
    ("name", "damage", "large"),
    [
        (SHARD, flip, False), (SHARD, cut, False), (SHARD, Path.unlink, False), (SHARD, cut, True),
        (SHARD, replace_a_header, True), ("vae/config.json", Path.unlink, True), ("tokenizer/tokenizer.json", cut, False),
        (weights.MANIFEST, Path.unlink, False), (weights.MANIFEST, cut, False), (weights.MANIFEST, claim_the_future, False),
    ],
)  # fmt: skip
def test_a_damaged_form_is_named_and_the_source_is_loaded(
    forms: Forms, name: str, damage: Callable[[Path], None], large: bool, monkeypatch
):
    if large:
        monkeypatch.setattr(weights, "_HASH_AT_EACH_START_BYTES", 0)
    damage(forms.folder(PACKING) / name)

    with capture_logs() as lines:
        components = load_whole(forms.source, forms, CPU, PLAIN)

    assert components.folder == forms.source
    (line,) = lines
    assert (line["event"], line["log_level"]) == (ENGINE_PREPARED_REFUSED, "warning")
    assert f"{forms.folder(PACKING).name}/{name}" in line["detail"]
    assert REMEDY in line["detail"]
    expected = load_whole(forms.source, None, CPU, PLAIN).transformer.state_dict()
    assert all(
        torch.equal(tensor, expected[key]) for key, tensor in components.transformer.state_dict().items()
    )
    with pytest.raises(CheckpointError):
        forms.verify(PACKING)


def test_when_neither_is_whole_both_are_named(forms):
    cut(forms.folder(PACKING) / SHARD)
    cut(forms.source / "vae" / "diffusion_pytorch_model.safetensors")

    with pytest.raises(CheckpointError) as raised:
        load_whole(forms.source, forms, CPU, PLAIN)

    assert "random-0/vae/diffusion_pytorch_model.safetensors is truncated" in raised.value.detail
    assert f"{forms.folder(PACKING).name}/{SHARD}" in raised.value.detail
    assert REMEDY in raised.value.detail


def test_a_damaged_source_is_not_looked_for_in_a_form_that_is_not_there(forms):
    shutil.rmtree(forms.folder(PACKING))
    cut(forms.source / "vae" / "diffusion_pytorch_model.safetensors")

    with capture_logs() as lines, pytest.raises(CheckpointError, match="is truncated") as raised:
        load_whole(forms.source, forms, CPU, PLAIN)

    assert lines == []
    assert "prepared" not in raised.value.detail
