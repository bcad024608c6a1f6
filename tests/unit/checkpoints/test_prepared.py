"""A prepared checkpoint appears whole or not at all, and one wrong byte in it is refused by name."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from anime_studio.checkpoints import manifest, store
from anime_studio.checkpoints.atomic_folder import LOCK, atomic_folder
from anime_studio.checkpoints.manifest import Manifest, Packing
from anime_studio.checkpoints.prepared import all_prepared, find_prepared, prepared_folder, verify_prepared
from anime_studio.checkpoints.store import Checkpoint
from anime_studio.core.errors import CheckpointError, ConfigurationError, DiskFullError
from anime_studio.core.recipes import TINY_RANDOM
from anime_studio.engine.loading.prepare import prepare
from support.disks import small_disk_at
from support.engine import checkpoint_in, cut, flip

CPU = Packing("plain", "float32")
GPU = Packing("int8", "bfloat16")
FIX = "anime-studio weights prepare --recipe tiny-random"

PREPARE = """
import resource, signal, sys
from pathlib import Path
from anime_studio.checkpoints.manifest import Packing
from anime_studio.checkpoints.store import Checkpoint
from anime_studio.core.errors import DiskFullError
from anime_studio.engine.loading.prepare import prepare
source, limit = Path(sys.argv[1]), int(sys.argv[2])
if limit:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
def progress(model, done, total):
    print(model, done, flush=True)
    if not limit:
        sys.stdin.read()  # for ever: the test kills here
try:
    prepare(Checkpoint.at(source), Packing("plain", "float32"), progress, shard_bytes=20_000)
except DiskFullError as error:
    print(error.detail)
    sys.exit(7)
"""


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Checkpoint:
    return checkpoint_in(tmp_path, tiny_checkpoint)


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat every checkpoint as too large for a start to hash."""
    monkeypatch.setattr(manifest, "HASHED_AT_START_BYTES", 0)


def names(checkpoint: Checkpoint) -> list[str]:
    return sorted(path.name for path in checkpoint.folder.parent.iterdir() if path.name != LOCK)


def test_the_manifest_describes_the_layout_and_covers_every_file(checkpoint):
    folder = prepare(checkpoint, GPU, shard_bytes=20_000)

    prepared = Manifest.read(folder)
    assert prepared.layout is not None
    layout = prepared.layout
    assert (layout.version, layout.packing, layout.source_revision) == (1, GPU, "random-0")
    assert layout.shard_bytes == 20_000
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert set(prepared.files) == there - {manifest.MANIFEST}
    assert Manifest.read(checkpoint.folder).layout is None


def test_the_manifest_of_version_1_has_this_form(checkpoint):
    folder = prepare(checkpoint, GPU)

    content = json.loads((folder / manifest.MANIFEST).read_text())
    assert list(content) == ["layout", "files"]
    assert content["layout"].keys() == {
        "version",
        "packing",
        "source_revision",
        "source_sha256",
        "shard_bytes",
    }
    assert content["layout"]["packing"] == {"text_weights": "int8", "dtype": "bfloat16"}
    assert content["files"]["vae/config.json"].keys() == {"size_bytes", "sha256"}
    assert folder.name == "random-0.int8-bfloat16-v1"


def test_a_prepared_checkpoint_is_never_taken_for_a_fetched_one(checkpoint, tmp_path):
    folder = prepare(checkpoint, GPU)

    assert store.locate(TINY_RANDOM, tmp_path) == checkpoint
    assert not (folder / manifest.COMPLETE).exists()


def test_preparing_again_writes_nothing(checkpoint):
    folder = prepare(checkpoint, CPU)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    prepare(checkpoint, CPU, lambda *_: pytest.fail("a shard was written"))

    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_verify_returns_every_prepared_checkpoint(checkpoint):
    assert verify_prepared(checkpoint, CPU) == []

    both = sorted([prepare(checkpoint, CPU), prepare(checkpoint, GPU)])

    assert verify_prepared(checkpoint, CPU) == both


@pytest.mark.parametrize(
    "name",
    [
        "text_encoder/00001.safetensors", "transformer/00002.safetensors", "vae/00001.safetensors", "vae/config.json",
        "model_index.json", "tokenizer/tokenizer.json", "scheduler/scheduler_config.json",
    ],
)  # fmt: skip
def test_one_wrong_byte_a_missing_byte_and_a_missing_file_are_refused_by_name(checkpoint, name):
    path = prepare(checkpoint, CPU, shard_bytes=20_000) / name
    whole = path.read_bytes()
    for damage, refusal in (
        (flip, "was altered"),
        (cut, r"has \d+ bytes, the manifest says"),
        (Path.unlink, "is missing"),
    ):
        damage(path)
        with pytest.raises(CheckpointError, match=f"{name} {refusal}"):
            find_prepared(checkpoint, CPU)
        with pytest.raises(CheckpointError, match=f"{name} {refusal}.*; .*{FIX}"):
            verify_prepared(checkpoint, CPU)
        path.write_bytes(whole)
    assert verify_prepared(checkpoint, CPU) == [find_prepared(checkpoint, CPU)]


def test_a_start_compares_the_sizes_of_a_large_one_and_verify_its_hashes(checkpoint, large):
    folder = prepare(checkpoint, CPU)
    flip(folder / "vae/00001.safetensors")

    assert find_prepared(checkpoint, CPU) == folder
    with pytest.raises(CheckpointError, match="altered"):
        verify_prepared(checkpoint, CPU)
    assert prepare(checkpoint, CPU) == folder
    assert verify_prepared(checkpoint, CPU) == [folder], "what verify refuses, prepare fixes"
    assert names(checkpoint) == ["random-0", folder.name]


@pytest.mark.parametrize(
    ("content", "refusal"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"files": {"vae": 1}}', "cannot be read"),
        ('{"files": {}}', "describes no layout"),
        ('{"layout": {"version": 1}, "files": {}}', "cannot be read"),
        ('{"layout": {"version": 2}, "files": {}}', "layout version 2, this program reads version 1: update"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_named_with_the_fix(checkpoint, content, refusal):
    folder = prepare(checkpoint, CPU)
    (folder / manifest.MANIFEST).write_text(content)

    with pytest.raises(CheckpointError, match=refusal):
        find_prepared(checkpoint, CPU)
    with pytest.raises(CheckpointError, match=f"{refusal}.*{FIX}"):
        verify_prepared(checkpoint, CPU)


def test_a_folder_under_the_name_of_another_packing_is_refused(checkpoint):
    prepare(checkpoint, GPU).rename(prepared_folder(checkpoint, CPU))

    with pytest.raises(CheckpointError, match="is packed as int8-bfloat16, its name says otherwise"):
        find_prepared(checkpoint, CPU)


def test_verify_refuses_when_only_another_packing_is_prepared(checkpoint):
    prepare(checkpoint, GPU)

    assert find_prepared(checkpoint, CPU) is None, "the source is loaded"
    with pytest.raises(CheckpointError, match=f"int8-bfloat16-v1 is not packed as plain-float32.*{FIX}"):
        verify_prepared(checkpoint, CPU)


def test_one_of_replaced_source_weights_is_refused_and_made_again(checkpoint):
    prepare(checkpoint, CPU)
    index = checkpoint.folder / "model_index.json"
    index.write_text(index.read_text() + "\n")
    Manifest.of(checkpoint.folder).write(checkpoint.folder)

    with pytest.raises(CheckpointError, match="was prepared from other bytes"):
        find_prepared(checkpoint, CPU)

    folder = prepare(checkpoint, CPU)
    assert find_prepared(checkpoint, CPU) == folder
    assert names(checkpoint) == ["random-0", folder.name]


def test_a_kill_half_way_leaves_what_was_there_and_the_next_one_cleans_up(checkpoint):
    child = subprocess.Popen(
        [sys.executable, "-c", PREPARE, str(checkpoint.folder), "0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline().startswith("text_encoder"), "a shard is written"
        partial = prepared_folder(checkpoint, CPU).name + ".partial"
        assert names(checkpoint) == ["random-0", partial]

        with pytest.raises(ConfigurationError, match="another process is fetching or preparing weights"):
            prepare(checkpoint, CPU)
        child.send_signal(signal.SIGKILL)

    assert names(checkpoint) == ["random-0", partial]
    assert find_prepared(checkpoint, CPU) is None and all_prepared(checkpoint) == [], "the source is loaded"
    folder = prepare(checkpoint, CPU)
    assert verify_prepared(checkpoint, CPU) == [folder]
    assert names(checkpoint) == ["random-0", folder.name]


def test_a_kill_between_the_two_renames_leaves_the_source(checkpoint):
    folder = prepare(checkpoint, CPU)
    folder.rename(folder.with_name(folder.name + ".replaced"))  # as such a kill leaves it
    shutil.copytree(folder.with_name(folder.name + ".replaced"), folder.with_name(folder.name + ".partial"))

    assert find_prepared(checkpoint, CPU) is None
    assert all_prepared(checkpoint) == []
    prepare(checkpoint, CPU)
    assert names(checkpoint) == ["random-0", folder.name]


def test_a_file_that_may_not_grow_is_a_full_disk_and_leaves_nothing(checkpoint):
    command = [sys.executable, "-c", PREPARE, str(checkpoint.folder), "15000"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)

    assert done.returncode == 7, done.stderr
    assert "could not be written: File too large" in done.stdout
    assert FIX in done.stdout
    assert names(checkpoint) == ["random-0"]


def test_a_full_disk_leaves_what_was_there_and_says_how_to_go_on(tiny_checkpoint, tmp_path):
    with small_disk_at(tmp_path / "disk", "500k") as models:
        checkpoint = checkpoint_in(models, tiny_checkpoint)

        with pytest.raises(DiskFullError, match=f"No space left on device.*make room and run again: {FIX}"):
            prepare(checkpoint, CPU)

        assert names(checkpoint) == ["random-0"]
        assert store.locate(TINY_RANDOM, models, hashes=True) == checkpoint


@pytest.mark.parametrize(("damage", "refusal"), [(flip, "was altered"), (cut, "is truncated")])
def test_a_damaged_source_is_not_prepared(checkpoint, large, tmp_path, damage, refusal):
    damage(checkpoint.folder / "transformer" / "diffusion_pytorch_model.safetensors")
    if damage is flip:
        assert store.locate(TINY_RANDOM, tmp_path) == checkpoint, "a start compares sizes only"

    with pytest.raises(CheckpointError, match=rf"diffusion_pytorch_model\.safetensors {refusal}"):
        prepare(checkpoint, CPU)

    assert names(checkpoint) == ["random-0"]


def test_an_interrupted_folder_is_removed_at_once(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "whole") as folder:
        (folder / "half").write_text("half")
        raise KeyboardInterrupt

    assert [path.name for path in tmp_path.iterdir()] == [LOCK]
