"""A smaller decoder's file is fetched by its published hash, found, and refused when a byte is wrong."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from anime_studio.checkpoints.decoders import (
    fetch_decoder,
    locate_with_decoder,
    relative_folder,
    with_decoder,
)
from anime_studio.checkpoints.hub import ModelHub
from anime_studio.checkpoints.store import Checkpoint
from anime_studio.core.decoders import PUBLISHED, Decoder
from anime_studio.core.errors import CheckpointError, ConfigurationError, WeightsMissingError
from anime_studio.core.recipes import DEMO, FASTWAN_3STEP, TINY_RANDOM, WAN_50STEP
from support.engine import flip
from support.model_hub import FakeHub, Repository

CONTENT = b"eight bytes and more"
COMMIT = "c" * 40
WEIGHTS = replace(PUBLISHED[Decoder.TINY], sha256=hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.repositories[WEIGHTS.repo_id] = Repository({COMMIT: {WEIGHTS.file_name: CONTENT}}, COMMIT)
        yield hub


def fetch(hub: FakeHub, models: Path) -> Path:
    return fetch_decoder(WEIGHTS, models, hub=ModelHub(hub.url))


def test_a_fetched_file_is_found_by_its_hash_and_not_fetched_again(hub, tmp_path):
    folder = fetch(hub, tmp_path)

    assert folder == tmp_path / "decoders" / f"tiny-{WEIGHTS.sha256[:12]}"
    assert (folder / WEIGHTS.file_name).read_bytes() == CONTENT
    hub.close()
    assert fetch(hub, tmp_path) == folder


def test_a_file_that_is_not_the_published_one_is_refused_and_removed(hub, tmp_path):
    hub.repositories[WEIGHTS.repo_id].commits[COMMIT] = {WEIGHTS.file_name: b"other bytes"}

    with pytest.raises(CheckpointError, match=f"not the published {WEIGHTS.sha256}"):
        fetch(hub, tmp_path)

    assert not [path for path in (tmp_path / "decoders").iterdir() if path.is_dir()]


def test_a_repository_without_the_file_is_no_success(hub, tmp_path):
    hub.repositories[WEIGHTS.repo_id].commits[COMMIT] = {"README.md": b"moved"}

    with pytest.raises(CheckpointError, match=WEIGHTS.file_name):
        fetch(hub, tmp_path)


@pytest.mark.parametrize("name", [WEIGHTS.file_name, "manifest.json"])
def test_fetching_fixes_what_is_damaged(hub, tmp_path, name):
    folder = fetch(hub, tmp_path)
    flip(folder / name, 3)

    fetch(hub, tmp_path)

    assert hub.downloads == [WEIGHTS.file_name] * 2
    assert (folder / WEIGHTS.file_name).read_bytes() == CONTENT


def located(models: Path, decoder: Decoder) -> Checkpoint:
    return with_decoder(Checkpoint.at(models / "recipe" / "commit"), FASTWAN_3STEP, decoder, models)


def test_the_full_decoder_needs_no_file(tmp_path):
    assert located(tmp_path, Decoder.FULL).decoder_file is None


def test_a_missing_file_names_the_command(tmp_path):
    with pytest.raises(WeightsMissingError) as raised:
        located(tmp_path, Decoder.LIGHT)

    assert raised.value.command == "anime-studio weights fetch --recipe fastwan-3step --decoder light"
    assert raised.value.command in raised.value.detail


def test_an_altered_file_is_named_with_the_command_that_fixes_it(hub, tmp_path):
    folder = tmp_path / relative_folder(PUBLISHED[Decoder.TINY])
    fetch(hub, tmp_path).rename(folder)
    assert located(tmp_path, Decoder.TINY).decoder_file == folder / WEIGHTS.file_name
    flip(folder / WEIGHTS.file_name)

    with pytest.raises(CheckpointError, match=rf"{WEIGHTS.file_name}.*--decoder tiny"):
        located(tmp_path, Decoder.TINY)


@pytest.mark.parametrize("recipe", [FASTWAN_3STEP, WAN_50STEP, TINY_RANDOM])
def test_recipes_of_wans_latents_take_every_decoder(recipe):
    assert set(recipe.decoders) == set(Decoder)
    assert recipe.decoders[0] is Decoder.FULL


def test_the_demo_has_latents_of_its_own(tmp_path):
    with pytest.raises(ConfigurationError, match=r"recipe demo.*one of: full"):
        locate_with_decoder(DEMO, Decoder.LIGHT, tmp_path)
