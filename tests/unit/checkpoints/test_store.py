"""Weights are found, fetched as the hub lists them by its real client, and refused by name when a byte is wrong."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub._local_folder import write_download_metadata

from anime_studio.checkpoints import manifest, store
from anime_studio.checkpoints.atomic_folder import exclusive
from anime_studio.checkpoints.hub import ModelHub
from anime_studio.checkpoints.manifest import Manifest
from anime_studio.core.errors import (
    CheckpointError,
    ConfigurationError,
    DiskFullError,
    HubDeniedError,
    HubNotFoundError,
    HubRateLimitedError,
    HubUnreachableError,
    WeightsMissingError,
)
from anime_studio.core.recipes import (
    DEMO,
    FASTWAN_3STEP,
    FASTWAN_3STEP_UNIPC,
    TINY_RANDOM,
    WAN_50STEP,
    Recipe,
)
from anime_studio.engine.startup import start_engine
from support.disks import small_disk_at
from support.engine import checkpoint_in, cut, flip
from support.model_hub import FakeHub, Fault, Repository, etag

COMMIT = "0123abcd" * 5
REPO = str(FASTWAN_3STEP.repo_id)
WEIGHTS = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture
def models(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    checkpoint_in(tmp_path, tiny_checkpoint)
    return tmp_path


@pytest.fixture
def hub(tiny_checkpoint: Path) -> Iterator[FakeHub]:
    with FakeHub() as hub:
        for recipe in (FASTWAN_3STEP, WAN_50STEP):
            hub.repositories[str(recipe.repo_id)] = Repository()
        hub.repositories[REPO].commit(COMMIT, tiny_checkpoint)
        hub.repositories[str(WAN_50STEP.repo_id)].commit(WAN_50STEP.revision, tiny_checkpoint)
        yield hub


class Notes(store.Report):
    """Keeps what a fetch says."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


def fetch(
    hub: FakeHub,
    models: Path,
    recipe: Recipe = FASTWAN_3STEP,
    *,
    newest: bool = False,
    report: Notes | None = None,
) -> store.Checkpoint:
    return store.fetch(recipe, models, hub=ModelHub(hub.url), newest=newest, report=report)


def test_the_demo_checkpoint_ships_with_the_package(tmp_path):
    assert store.locate(DEMO, tmp_path).folder == store.PACKAGED / "demo"


def test_an_installation_without_the_demo_names_its_wheel(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "PACKAGED", tmp_path)
    with pytest.raises(WeightsMissingError, match=r"pip install \./anime_studio_demo-") as raised:
        store.locate(DEMO, tmp_path)
    assert raised.value.command in raised.value.detail


def test_every_shipped_file_is_small_enough_for_a_repository():
    files = [path for path in (store.PACKAGED / "demo").rglob("*") if path.is_file()]

    assert max(path.stat().st_size for path in files) < 15 * 1024**2
    assert sum(path.stat().st_size for path in files) <= 41 * 1024**2


@pytest.mark.parametrize(
    ("recipe", "command"),
    [
        (FASTWAN_3STEP, "anime-studio weights fetch --recipe fastwan-3step"),
        (TINY_RANDOM, "python -m anime_studio.engine.loading.tiny_random"),
    ],
)
def test_missing_weights_name_the_command(tmp_path, recipe, command):
    with pytest.raises(WeightsMissingError) as raised:
        store.locate(recipe, tmp_path)

    assert raised.value.command is not None
    assert raised.value.command.startswith(command)
    assert command in raised.value.detail


def test_a_fetched_checkpoint_is_found_under_its_commit_and_loads(hub, tmp_path):
    fetched = fetch(hub, tmp_path, WAN_50STEP)

    assert fetched == store.locate(WAN_50STEP, tmp_path)
    assert fetched.folder == tmp_path / "wan-50step" / WAN_50STEP.revision
    start_engine(TINY_RANDOM, fetched, device="cpu")


def test_a_pinned_recipe_is_found_only_at_its_revision(hub, tmp_path):
    fetch(hub, tmp_path, WAN_50STEP)
    (tmp_path / WAN_50STEP.name / WAN_50STEP.revision).rename(tmp_path / WAN_50STEP.name / COMMIT)

    with pytest.raises(WeightsMissingError):
        store.locate(WAN_50STEP, tmp_path)


def test_fetching_again_downloads_nothing(hub, tmp_path):
    fetch(hub, tmp_path)
    first = len(hub.downloads)

    fetch(hub, tmp_path)

    assert first > 0
    assert len(hub.downloads) == first


def test_a_fetch_asks_only_for_what_a_start_reads(hub, tmp_path, tiny_checkpoint):
    files = hub.repositories[REPO].commits[COMMIT]
    files |= {
        "README.md": b"x",
        "assets/cat.mp4": b"x",
        "text_encoder/pytorch_model.bin": b"x",
        "t5.pth": b"x",
    }

    fetch(hub, tmp_path)

    assert not {"README.md", "assets/cat.mp4", "text_encoder/pytorch_model.bin", "t5.pth"} & set(
        hub.downloads
    )


def test_a_second_precision_and_copies_beside_the_weights_are_not_fetched(hub, tmp_path):
    files = hub.repositories[REPO].commits[COMMIT]
    beside = [
        "transformer/diffusion_pytorch_model.fp16.safetensors",
        "transformer/diffusion_pytorch_model.safetensors.fp16.index.json",
        "transformer/diffusion_pytorch_model (1).safetensors",
        "transformer/ema/diffusion_pytorch_model.safetensors",
        "text_encoder/model-00001-of-00002.safetensors",
        "text_encoder/generation_config.json",
        "tokenizer/old/tokenizer.json",
    ]
    files |= dict.fromkeys(beside, b"x" * 3000)

    fetched = fetch(hub, tmp_path)

    assert not set(beside) & set(hub.downloads)
    assert not [name for name in beside if (fetched.folder / name).exists()]


def test_of_shards_only_those_that_the_index_names_are_fetched(hub, tmp_path):
    files = hub.repositories[REPO].commits[COMMIT]
    shards = [f"vae/diffusion_pytorch_model-{number}-of-2.safetensors" for number in (1, 2, 3)]
    content = files.pop(WEIGHTS)
    files |= dict.fromkeys(shards, content)
    names = {"a": Path(shards[0]).name, "b": Path(shards[1]).name, "c": Path(shards[0]).name}
    files[f"{WEIGHTS}.index.json"] = json.dumps({"weight_map": names}).encode()

    folder = fetch(hub, tmp_path).folder

    assert [path.name for path in sorted(folder.glob("vae/*"))] == [
        "config.json",
        *sorted({*names.values(), f"{Path(WEIGHTS).name}.index.json"}),
    ]
    assert shards[2] not in hub.downloads


def test_weights_that_are_published_whole_and_in_shards_are_fetched_whole_and_it_says_so(hub, tmp_path):
    files = hub.repositories[REPO].commits[COMMIT]
    files[f"{WEIGHTS}.index.json"] = json.dumps({"weight_map": {"a": "old.safetensors"}}).encode()
    files["vae/old.safetensors"] = b"x" * 3000
    notes = Notes()

    fetched = fetch(hub, tmp_path, report=notes)

    assert notes.said == [
        f"{WEIGHTS} is published in shards too, which {WEIGHTS}.index.json names; the whole file is taken"
    ]
    assert not {f"{WEIGHTS}.index.json", "vae/old.safetensors"} & set(hub.downloads)
    start_engine(TINY_RANDOM, fetched, device="cpu")


def test_a_second_set_of_weights_that_a_person_put_there_is_not_the_repositorys_fault(hub, tmp_path):
    folder = fetch(hub, tmp_path).folder
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": {"a": "old.safetensors"}}))
    hub.downloads.clear()

    fetch(hub, tmp_path)

    assert not (folder / f"{WEIGHTS}.index.json").exists()
    assert WEIGHTS not in hub.downloads, "what is right is not downloaded again"


@pytest.mark.parametrize("large", [False, True])
def test_fetching_fixes_what_is_damaged(hub, tmp_path, monkeypatch, large):
    folder = fetch(hub, tmp_path).folder
    if large:
        monkeypatch.setattr(manifest, "HASHED_AT_START_BYTES", 0)
    flip(folder / WEIGHTS)
    with pytest.raises(
        CheckpointError, match="again with: anime-studio weights fetch --recipe fastwan-3step "
    ):
        store.locate(FASTWAN_3STEP, tmp_path, hashes=True)
    hub.downloads.clear()

    fetch(hub, tmp_path)

    assert store.locate(FASTWAN_3STEP, tmp_path, hashes=True).folder == folder
    assert WEIGHTS in hub.downloads
    assert "text_encoder/model.safetensors" not in hub.downloads, "what is right is not downloaded again"


def test_a_damaged_checkpoint_stays_until_what_replaces_it_is_whole(hub, tmp_path):
    folder = fetch(hub, tmp_path).folder
    (folder / WEIGHTS).unlink()
    hub.faults.append(Fault(WEIGHTS, altered=True))

    with pytest.raises(CheckpointError, match="did not come as"):
        fetch(hub, tmp_path)

    with pytest.raises(CheckpointError, match=f"{WEIGHTS} is missing"):
        store.locate(FASTWAN_3STEP, tmp_path)


def test_a_manifest_over_other_bytes_than_the_hub_lists_is_not_believed(hub, tmp_path):
    folder = fetch(hub, tmp_path).folder
    cut(folder / WEIGHTS)
    Manifest.of(folder).write(folder)

    fetch(hub, tmp_path)

    assert (folder / WEIGHTS).read_bytes() == hub.repositories[REPO].commits[COMMIT][WEIGHTS]


def test_a_small_file_of_the_same_size_but_other_bytes_is_not_believed(hub, tmp_path):
    folder = fetch(hub, tmp_path).folder
    flip(folder / "transformer/config.json", 3)
    Manifest.of(folder).write(folder)

    fetch(hub, tmp_path)

    published = hub.repositories[REPO].commits[COMMIT]["transformer/config.json"]
    assert (folder / "transformer/config.json").read_bytes() == published


def test_a_checkpoint_that_serves_one_recipe_is_refused_for_another_that_needs_more(hub, tmp_path):
    del hub.repositories[REPO].commits[COMMIT]["scheduler/scheduler_config.json"]
    fetch(hub, tmp_path)

    with pytest.raises(
        CheckpointError, match=r"scheduler_config\.json is missing; the repository .* fastwan-3step-unipc"
    ):
        fetch(hub, tmp_path, FASTWAN_3STEP_UNIPC)


@pytest.mark.parametrize("left", [0, 1000])
def test_half_a_partial_folder_and_a_hub_that_is_down_are_no_checkpoint(hub, tmp_path, left):
    partial = tmp_path / FASTWAN_3STEP.name / f"{COMMIT}.partial"
    (partial / "vae").mkdir(parents=True)
    (partial / WEIGHTS).write_bytes(hub.repositories[REPO].commits[COMMIT][WEIGHTS][:left])
    hub.close()

    with pytest.raises(HubUnreachableError, match="run the same command again"):
        fetch(hub, tmp_path)
    with pytest.raises(WeightsMissingError):
        store.locate(FASTWAN_3STEP, tmp_path)


def test_a_partial_folder_of_another_attempt_is_completed(hub, tmp_path):
    partial = tmp_path / FASTWAN_3STEP.name / f"{COMMIT}.partial"
    (partial / "vae").mkdir(parents=True)
    (partial / WEIGHTS).write_bytes(b"half")
    (partial / "vae/config.json").write_text("{}")

    folder = fetch(hub, tmp_path).folder

    for name in (WEIGHTS, "vae/config.json"):
        assert (folder / name).read_bytes() == hub.repositories[REPO].commits[COMMIT][name]


def test_what_another_attempt_left_and_the_hub_does_not_list_is_no_part_of_the_checkpoint(hub, tmp_path):
    partial = tmp_path / FASTWAN_3STEP.name / f"{COMMIT}.partial"
    (partial / "vae").mkdir(parents=True)
    (partial / "vae/diffusion_pytorch_model.safetensors.index.json").write_text("{}")

    checkpoint = fetch(hub, tmp_path)

    assert sorted(checkpoint.folder.glob("vae/*.json")) == [checkpoint.folder / "vae/config.json"]


def left_in_partial(models: Path, files: dict[str, bytes], notes_of: dict[str, str]) -> Path:
    """Write what an earlier attempt left, with the notes of the hub's client that each file is as the hub has it."""
    partial = models / FASTWAN_3STEP.name / f"{COMMIT}.partial"
    for name, content in files.items():
        path = partial / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        write_download_metadata(partial, name, COMMIT, notes_of[name])
    return partial


@pytest.mark.parametrize("name", [WEIGHTS, "transformer/config.json"])
def test_a_file_that_was_altered_after_it_came_does_not_blame_the_repository(hub, tmp_path, name):
    published = hub.repositories[REPO].commits[COMMIT][name]
    altered = bytes([published[0] ^ 1]) + published[1:]
    left_in_partial(tmp_path, {name: altered}, {name: etag(published)})

    folder = fetch(hub, tmp_path).folder

    assert (folder / name).read_bytes() == published


def test_room_is_asked_for_exactly_what_is_to_come(hub, tmp_path, monkeypatch):
    files = hub.repositories[REPO].commits[COMMIT]
    text = "text_encoder/model.safetensors"
    left = {WEIGHTS: files[WEIGHTS], text: files[text][:-1]}
    partial = left_in_partial(tmp_path, left, {name: etag(files[name]) for name in left})
    # A killed client's half file has a name of its own, which no later client goes on from.
    (partial / ".cache/huggingface/download/x.incomplete").write_bytes(b"x" * 5000)
    (partial / "vae/of_another_commit.safetensors").write_bytes(b"x" * 5000)
    usage = shutil.disk_usage(tmp_path)
    fetched = sum(map(len, files.values())) - len(files[WEIGHTS])
    for free in (fetched - 1, fetched):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: usage._replace(free=free))
        if free < fetched:
            with pytest.raises(DiskFullError, match="GB are free"):
                fetch(hub, tmp_path)
            assert hub.downloads == []
        else:
            fetch(hub, tmp_path)

    assert WEIGHTS not in hub.downloads and text in hub.downloads


def test_a_second_fetch_at_the_same_time_is_told_to_wait(hub, tmp_path):
    (tmp_path / FASTWAN_3STEP.name).mkdir()
    busy = pytest.raises(ConfigurationError, match="another process is fetching or preparing weights")
    with exclusive(tmp_path / FASTWAN_3STEP.name), busy:
        fetch(hub, tmp_path)
    fetch(hub, tmp_path)


@pytest.mark.parametrize("where", [WEIGHTS, "transformer/config.json", "/api/"])
def test_a_connection_that_breaks_leaves_no_checkpoint_and_the_next_fetch_finishes(hub, tmp_path, where):
    hub.faults.append(Fault(where, cut_after_bytes=30) if where != "/api/" else Fault(where, status=503))
    with pytest.raises((HubUnreachableError, CheckpointError)):
        fetch(hub, tmp_path)
    with pytest.raises(WeightsMissingError):
        store.locate(FASTWAN_3STEP, tmp_path)

    hub.faults.clear()

    assert fetch(hub, tmp_path).revision == COMMIT


@pytest.mark.parametrize("name", [WEIGHTS, "transformer/config.json"])
def test_other_bytes_than_listed_are_refused_by_name_and_deleted(hub, tmp_path, name):
    hub.faults.append(Fault(f"resolve/{COMMIT}/{name}", altered=True))

    with pytest.raises(CheckpointError, match=f"{name} did not come as {REPO}"):
        fetch(hub, tmp_path)

    assert not (tmp_path / FASTWAN_3STEP.name / f"{COMMIT}.partial" / name).exists()
    hub.faults.clear()
    assert fetch(hub, tmp_path).revision == COMMIT


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        (Fault("/api/", status=401, code="GatedRepo"), HubDeniedError, "hf auth login"),
        (Fault("/api/", status=403), HubDeniedError, "accept the repository's terms"),
        (Fault("/resolve/", status=401, code="GatedRepo"), HubDeniedError, "hf auth login"),
        (Fault("/api/", status=401, code="RepoNotFound"), HubDeniedError, "check the name"),
        (Fault("/api/", status=404, code="RepoNotFound"), HubNotFoundError, "check repository and revision"),
        (
            Fault("/api/", status=404, code="RevisionNotFound"),
            HubNotFoundError,
            "check repository and revision",
        ),
        (Fault("/api/", status=429), HubRateLimitedError, "in a few minutes"),
        (Fault("/api/", status=500), HubUnreachableError, "check the network"),
    ],
    ids=lambda value: f"{value.where}{value.status}{value.code}" if isinstance(value, Fault) else None,
)
def test_each_refusal_of_the_hub_has_words_of_its_own(hub, tmp_path, fault, error, words):
    hub.faults.append(replace(fault))

    with pytest.raises(error, match=words):
        fetch(hub, tmp_path)


def test_a_full_disk_is_told_before_a_byte_comes(hub, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=1000))

    with pytest.raises(DiskFullError, match=r"needs 0\.\d GB more in .*, where 0\.0 GB are free"):
        fetch(hub, tmp_path)

    assert hub.downloads == []


def test_a_disk_that_runs_full_meanwhile_is_told_and_the_next_fetch_finishes(hub, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patched, small_disk_at(tmp_path / "small", "64k") as models:
        patched.setattr("shutil.disk_usage", lambda _: usage)
        with pytest.raises(DiskFullError, match="ran full while"):
            fetch(hub, models)
        with pytest.raises(WeightsMissingError):
            store.locate(FASTWAN_3STEP, models)

    assert fetch(hub, tmp_path).revision == COMMIT


def test_a_repository_without_the_files_is_no_success(hub, tmp_path):
    hub.repositories[REPO].commits[COMMIT] = {"README.md": b"moved"}

    with pytest.raises(CheckpointError, match="holds none of the files"):
        fetch(hub, tmp_path)


@pytest.mark.parametrize(
    "lacking", ["model_index.json", "vae/config.json", WEIGHTS, "tokenizer/tokenizer_config.json"]
)
def test_a_repository_that_lacks_a_part_is_refused_by_the_part(hub, tmp_path, lacking):
    del hub.repositories[REPO].commits[COMMIT][lacking]

    with pytest.raises(
        CheckpointError, match=f"{lacking} is missing; the repository {REPO} is not a checkpoint"
    ):
        fetch(hub, tmp_path)
    with pytest.raises(WeightsMissingError):
        store.locate(FASTWAN_3STEP, tmp_path)


def test_a_shard_that_the_index_names_must_be_there(hub, tmp_path):
    files = hub.repositories[REPO].commits[COMMIT]
    files[f"{WEIGHTS}.index.json"] = json.dumps({"weight_map": {"a": "diffusion_1.safetensors"}}).encode()
    del files[WEIGHTS]

    with pytest.raises(CheckpointError, match=r"diffusion_1\.safetensors is missing"):
        fetch(hub, tmp_path)


def test_a_published_file_shorter_than_its_header_says_is_refused(hub, tmp_path):
    files = hub.repositories[REPO].commits[COMMIT]
    files[WEIGHTS] = files[WEIGHTS][:-8]

    with pytest.raises(CheckpointError, match=f"{WEIGHTS} is truncated"):
        fetch(hub, tmp_path)


def test_whole_weights_are_taken_when_the_hub_cannot_be_reached(hub, tmp_path):
    fetched = fetch(hub, tmp_path)
    hub.close()
    notes = Notes()

    assert fetch(hub, tmp_path, report=notes) == fetched
    assert "not compared with the model hub" in notes.said[0]

    flip(fetched.folder / WEIGHTS)
    with pytest.raises(HubUnreachableError):
        fetch(hub, tmp_path)


def test_a_recipe_without_a_commit_keeps_to_the_one_of_its_first_fetch(hub, tmp_path, tiny_checkpoint):
    fetch(hub, tmp_path)
    hub.repositories[REPO].commit("f" * 40, tiny_checkpoint)

    assert fetch(hub, tmp_path).revision == COMMIT
    assert store.locate(FASTWAN_3STEP, tmp_path).revision == COMMIT

    assert fetch(hub, tmp_path, newest=True).revision == "f" * 40
    assert store.locate(FASTWAN_3STEP, tmp_path).revision == "f" * 40
    assert fetch(hub, tmp_path).revision == "f" * 40


def test_two_recipes_of_one_checkpoint_fetch_it_once(hub, tmp_path):
    fetched = fetch(hub, tmp_path)
    first = len(hub.downloads)

    assert fetch(hub, tmp_path, FASTWAN_3STEP_UNIPC) == fetched
    assert len(hub.downloads) == first
    start_engine(replace(TINY_RANDOM, flow_shift=3.0), fetched, device="cpu")


def test_a_move_to_the_newest_that_fails_keeps_what_is_in_use(hub, tmp_path, tiny_checkpoint):
    fetch(hub, tmp_path)
    hub.repositories[REPO].commit("f" * 40, tiny_checkpoint, without=lambda name: name.startswith("vae/"))

    with pytest.raises(CheckpointError):
        fetch(hub, tmp_path, newest=True)

    assert store.locate(FASTWAN_3STEP, tmp_path).revision == COMMIT


def test_a_recipe_that_names_its_commit_cannot_be_moved(hub, tmp_path):
    with pytest.raises(ConfigurationError, match="names its commit"):
        fetch(hub, tmp_path, WAN_50STEP, newest=True)


def test_weights_of_before_the_note_of_the_commit_are_still_found(hub, tmp_path):
    fetch(hub, tmp_path)
    (tmp_path / FASTWAN_3STEP.name / store.IN_USE).unlink()

    assert store.locate(FASTWAN_3STEP, tmp_path).revision == COMMIT


def test_a_commit_that_was_fetched_before_is_used_again_if_it_is_whole(hub, tmp_path, tiny_checkpoint):
    fetch(hub, tmp_path)
    hub.repositories[REPO].commit("f" * 40, tiny_checkpoint)
    store.fetch(FASTWAN_3STEP, tmp_path, hub=ModelHub(hub.url), newest=True, keep_in_use=True)
    assert store.locate(FASTWAN_3STEP, tmp_path).revision == COMMIT

    store.use(FASTWAN_3STEP, tmp_path, "f" * 40)
    assert store.locate(FASTWAN_3STEP, tmp_path).revision == "f" * 40

    with pytest.raises(WeightsMissingError, match="weights fetch"):
        store.use(FASTWAN_3STEP, tmp_path, "c" * 40)
    with pytest.raises(ConfigurationError, match="is no revision"):
        store.use(FASTWAN_3STEP, tmp_path, "../other")
    (tmp_path / FASTWAN_3STEP.name / COMMIT / "vae/config.json").write_bytes(b"{}")
    with pytest.raises(CheckpointError, match=r"vae/config\.json"):
        store.use(FASTWAN_3STEP, tmp_path, COMMIT)
    assert store.locate(FASTWAN_3STEP, tmp_path).revision == "f" * 40


def test_a_file_that_the_disk_will_not_give_is_named(models):
    path = models / "tiny-random/random-0/vae/config.json"
    path.unlink()
    path.symlink_to("/proc/self/mem")  # it has a size, and reading its first byte is an input/output error

    with pytest.raises(CheckpointError, match=r"vae/config\.json cannot be read: Input/output error"):
        Manifest.of(models / "tiny-random/random-0")


@pytest.mark.parametrize(
    ("name", "damage", "refusal"),
    [
        ("vae/diffusion_pytorch_model.safetensors", flip, "was altered"),
        ("tokenizer/tokenizer.json", cut, r"has \d+ bytes, the manifest says"),
        ("model_index.json", Path.unlink, "is missing"),
    ],
)
def test_a_wrong_file_is_refused_by_name_with_the_fix(models, name, damage, refusal):
    damage(models / "tiny-random/random-0" / name)

    with pytest.raises(
        CheckpointError, match=f"{name} {refusal}.*; fetch the weights again with: python -m "
    ):
        store.locate(TINY_RANDOM, models)


def test_a_wrong_file_of_the_package_is_not_to_be_fetched(tmp_path, monkeypatch):
    folder = shutil.copytree(store.PACKAGED / "demo", tmp_path / "demo")
    monkeypatch.setattr(store, "PACKAGED", tmp_path)
    cut(folder / "upscaler/diffusion_pytorch_model.safetensors")

    with pytest.raises(
        CheckpointError, match=r"upscaler/.* bytes, .*; it came with the package: install that again"
    ):
        store.locate(DEMO, tmp_path)


@pytest.mark.parametrize("content", [None, "{", '{"other": 1}', "[]", "[" * 30_000])
def test_an_unreadable_manifest_says_what_to_do(models, content):
    path = models / "tiny-random/random-0" / manifest.MANIFEST
    path.unlink()
    if content is not None:
        path.write_text(content)

    with pytest.raises(CheckpointError, match="fetch the weights again"):
        store.locate(TINY_RANDOM, models)
