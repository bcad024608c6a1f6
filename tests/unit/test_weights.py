"""Weights are found, fetched in one step, and refused by name when a byte is wrong."""

import shutil
from pathlib import Path

import pytest

from anime_studio import weights
from anime_studio.core.errors import CheckpointError, UnavailableError, WeightsMissingError
from anime_studio.core.recipes import DEMO, FASTWAN_3STEP, TINY_RANDOM, WAN_50STEP, Recipe
from anime_studio.engine.engine import load_engine

COMMIT = "0123abcd" * 5


@pytest.fixture
def models(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_checkpoint, tmp_path / "tiny-random" / "random-0")
    return tmp_path


class Hub:
    """Serves one checkpoint; counts downloads and can break off half way."""

    def __init__(self, source: Path) -> None:
        self.source, self.downloads, self.breaks = source, 0, False

    @staticmethod
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("Name or service not known")

    def resolve(self, recipe: Recipe) -> str:
        return COMMIT if recipe.revision == "main" else recipe.revision

    def download(self, _: Recipe, revision: str, folder: Path) -> None:
        self.downloads += 1
        for path in sorted(self.source.rglob("*")):
            if path.is_file() and path.name not in (weights.MANIFEST, weights.COMPLETE):
                target = folder / path.relative_to(self.source)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
                if self.breaks:
                    raise ConnectionError("cable pulled")


@pytest.fixture
def hub(tiny_checkpoint: Path) -> Hub:
    return Hub(tiny_checkpoint)


def fetch(hub: Hub, models: Path, recipe: Recipe = FASTWAN_3STEP) -> weights.Checkpoint:
    return weights.fetch(recipe, models, download=hub.download, resolve=hub.resolve)


def test_the_demo_checkpoint_ships_with_the_package(tmp_path):
    assert weights.locate(DEMO, tmp_path).folder == weights.PACKAGED / "demo"


def test_every_shipped_file_is_small_enough_for_a_repository():
    files = [path for path in (weights.PACKAGED / "demo").rglob("*") if path.is_file()]

    assert max(path.stat().st_size for path in files) < 15 * 1024**2
    assert sum(path.stat().st_size for path in files) <= 41 * 1024**2


@pytest.mark.parametrize(
    ("recipe", "command"),
    [
        (FASTWAN_3STEP, "anime-studio weights fetch --recipe fastwan-3step"),
        (TINY_RANDOM, "python -m anime_studio.engine.tiny"),
    ],
)
def test_missing_weights_name_the_command(tmp_path, recipe, command):
    with pytest.raises(WeightsMissingError) as raised:
        weights.locate(recipe, tmp_path)

    assert raised.value.command is not None
    assert raised.value.command.startswith(command)
    assert command in raised.value.detail


def test_a_fetched_checkpoint_is_found_under_its_commit_and_loads(hub, tmp_path):
    fetched = fetch(hub, tmp_path)

    assert fetched == weights.locate(FASTWAN_3STEP, tmp_path)
    assert fetched.folder == tmp_path / "fastwan-3step" / COMMIT
    load_engine(TINY_RANDOM, fetched.folder, device="cpu")


def test_a_pinned_recipe_is_found_only_at_its_revision(hub, tmp_path):
    fetch(hub, tmp_path, WAN_50STEP)
    (tmp_path / WAN_50STEP.name / WAN_50STEP.revision).rename(tmp_path / WAN_50STEP.name / COMMIT)

    with pytest.raises(WeightsMissingError):
        weights.locate(WAN_50STEP, tmp_path)


def test_fetching_again_downloads_nothing(hub, tmp_path):
    fetch(hub, tmp_path)
    fetch(hub, tmp_path)

    assert hub.downloads == 1


@pytest.mark.parametrize("large", [False, True])
def test_fetching_mends_what_is_damaged(hub, tmp_path, monkeypatch, large):
    folder = fetch(hub, tmp_path).folder
    if large:
        monkeypatch.setattr(weights, "_HASH_AT_EACH_START_BYTES", 0)
    path = folder / "vae/diffusion_pytorch_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="fetch the weights again"):
        weights.verify(FASTWAN_3STEP, tmp_path)

    fetch(hub, tmp_path)

    assert weights.verify(FASTWAN_3STEP, tmp_path).folder == folder
    assert hub.downloads == 2


def test_a_damaged_checkpoint_stays_until_what_replaces_it_is_whole(hub, tmp_path):
    folder = fetch(hub, tmp_path).folder
    (folder / "vae/config.json").unlink()
    hub.breaks = True

    with pytest.raises(ConnectionError):
        fetch(hub, tmp_path)

    with pytest.raises(CheckpointError, match=r"vae/config\.json is missing"):
        weights.locate(FASTWAN_3STEP, tmp_path)


def test_a_file_that_the_disk_will_not_give_is_named(models):
    path = models / "tiny-random/random-0/vae/config.json"
    path.unlink()
    path.symlink_to(
        "/proc/self/mem"
    )  # is there, has a size, and reading its first byte is an input/output error

    with pytest.raises(CheckpointError, match=r"vae/config\.json cannot be read: Input/output error"):
        weights.write_manifest(models / "tiny-random/random-0")


def test_an_interrupted_fetch_leaves_no_checkpoint_and_the_next_one_finishes(hub, tmp_path):
    hub.breaks = True
    with pytest.raises(ConnectionError):
        fetch(hub, tmp_path)
    with pytest.raises(WeightsMissingError):
        weights.locate(FASTWAN_3STEP, tmp_path)

    hub.breaks = False

    assert fetch(hub, tmp_path).revision == COMMIT


def test_the_newest_of_several_commits_is_served(hub, tmp_path):
    fetch(hub, tmp_path)
    hub.resolve = lambda _: "f" * 40  # type: ignore[method-assign]

    assert fetch(hub, tmp_path).revision == "f" * 40
    assert weights.locate(FASTWAN_3STEP, tmp_path).revision == "f" * 40


def test_one_wrong_byte_is_refused_by_name(models):
    path = models / "tiny-random/random-0/vae/diffusion_pytorch_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)

    with pytest.raises(CheckpointError, match=r"vae/diffusion_pytorch_model\.safetensors was altered"):
        weights.locate(TINY_RANDOM, models)


def test_a_truncated_file_is_refused_by_name(models):
    path = models / "tiny-random/random-0/tokenizer/tokenizer.json"
    path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(CheckpointError, match=r"tokenizer\.json has \d+ bytes, the manifest says"):
        weights.locate(TINY_RANDOM, models)


def test_a_missing_file_is_refused_by_name(models):
    (models / "tiny-random/random-0/model_index.json").unlink()

    with pytest.raises(CheckpointError, match=r"model_index\.json is missing"):
        weights.locate(TINY_RANDOM, models)


@pytest.mark.parametrize("content", [None, "{", '{"other": 1}', "[]"])
def test_an_unreadable_manifest_says_what_to_do(models, content):
    manifest = models / "tiny-random/random-0" / weights.MANIFEST
    manifest.unlink()
    if content is not None:
        manifest.write_text(content)

    with pytest.raises(CheckpointError, match="fetch the weights again"):
        weights.locate(TINY_RANDOM, models)


def test_a_hub_that_does_not_answer_is_said_in_our_words(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", Hub.unreachable)

    with pytest.raises(UnavailableError, match="run the same command again"):
        weights.fetch(FASTWAN_3STEP, tmp_path)
