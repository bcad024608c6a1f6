"""The serving layout appears whole or not at all, and one wrong byte in it is refused by name."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from anime_studio import weights
from anime_studio.appearing import LOCK, appearing
from anime_studio.core.errors import CheckpointError, ConfigurationError, DiskFullError
from anime_studio.core.recipes import TINY_RANDOM
from anime_studio.engine.preparing import prepare
from anime_studio.prepared import Forms, Packing, locate_or_name_all, read_layout
from support.disks import small_disk_at

CPU = Packing("plain", "float32")
GPU = Packing("int8", "bfloat16")
REMEDY = "anime-studio weights prepare --recipe tiny-random"

RUN = """
import resource, signal, sys
from pathlib import Path
from anime_studio.core.recipes import TINY_RANDOM
from anime_studio.engine import preparing
from anime_studio.prepared import Forms, Packing
models, limit = Path(sys.argv[1]), int(sys.argv[2])
if limit:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
def hold(part, done, total):
    print(part, done, flush=True)
    if not limit:
        sys.stdin.read()  # for ever: the test kills here
forms = Forms.of(TINY_RANDOM, models / "tiny-random" / "random-0", models)
try:
    preparing.prepare(forms, Packing("plain", "float32"), hold, shard_bytes=20_000)
except preparing.DiskFullError as error:
    print(error.detail)
    sys.exit(7)
"""


@pytest.fixture
def models(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_checkpoint, tmp_path / "tiny-random" / "random-0")
    return tmp_path


@pytest.fixture
def forms(models: Path) -> Forms:
    return Forms.of(TINY_RANDOM, weights.locate(TINY_RANDOM, models).folder, models)


def names(models: Path) -> list[str]:
    return sorted(path.name for path in (models / "tiny-random").iterdir() if path.name != LOCK)


def flip(path: Path, at: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def edit(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text())
    content["layout"] |= changes
    path.write_text(json.dumps(content))


def test_the_manifest_says_what_was_done_and_covers_every_file(forms):
    folder = prepare(forms, GPU, shard_bytes=20_000)

    layout = read_layout(folder)
    assert layout is not None
    assert (layout.version, layout.packing, layout.source_revision) == (1, GPU, "random-0")
    assert layout.shard_bytes == 20_000
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert set(weights.read_manifest(folder)) == there - {weights.MANIFEST}
    assert read_layout(forms.source) is None


def test_a_prepared_form_is_never_taken_for_a_fetched_checkpoint(forms, models):
    prepare(forms, GPU)

    assert weights.locate(TINY_RANDOM, models).folder == forms.source
    assert not list(models.rglob("*-v1/complete"))


def test_preparing_again_writes_nothing(forms):
    folder = prepare(forms, CPU)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    prepare(forms, CPU, lambda *_: pytest.fail("a shard was written"))

    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_verify_returns_every_form_that_is_whole(forms):
    assert forms.verify(CPU) == []

    both = sorted([prepare(forms, CPU), prepare(forms, GPU)])

    assert forms.verify(CPU) == both


@pytest.mark.parametrize(
    "name",
    [
        "text_encoder/00001.safetensors", "transformer/00002.safetensors", "vae/00001.safetensors", "vae/config.json",
        "model_index.json", "tokenizer/tokenizer.json", "scheduler/scheduler_config.json",
    ],
)  # fmt: skip
@pytest.mark.parametrize("look", [Forms.find, Forms.verify])
def test_one_wrong_byte_a_missing_byte_and_a_missing_file_are_refused_by_name(forms, name, look):
    folder = prepare(forms, CPU, shard_bytes=20_000)
    path = folder / name
    whole = path.read_bytes()

    flip(path)
    with pytest.raises(CheckpointError, match=f"{name} was altered") as raised:
        look(forms, CPU)
    assert REMEDY in raised.value.detail
    path.write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match=rf"{name} has \d+ bytes, the manifest says"):
        look(forms, CPU)
    path.unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        look(forms, CPU)
    path.write_bytes(whole)
    assert look(forms, CPU)


def test_a_large_form_is_held_against_its_sizes_at_each_start_and_its_hashes_by_verify(forms, monkeypatch):
    monkeypatch.setattr(weights, "_HASH_AT_EACH_START_BYTES", 0)
    folder = prepare(forms, CPU)
    flip(folder / "vae/00001.safetensors")

    assert forms.find(CPU) == folder
    with pytest.raises(CheckpointError, match="altered"):
        forms.verify(CPU)


@pytest.mark.parametrize("content", ["{", "[]", '{"files": {}}', '{"layout": {"version": 1}, "files": {}}'])
def test_an_unreadable_manifest_says_what_to_do(forms, content):
    folder = prepare(forms, CPU)
    (folder / weights.MANIFEST).write_text(content)

    with pytest.raises(CheckpointError, match=REMEDY):
        forms.find(CPU)


def test_a_layout_from_the_future_is_refused_by_its_version(forms):
    folder = prepare(forms, CPU)
    edit(folder / weights.MANIFEST, version=2, novelty=True)

    for look in (forms.find, forms.verify):
        with pytest.raises(CheckpointError, match="layout version 2, this program reads version 1; update"):
            look(CPU)


def test_a_folder_under_a_name_of_another_packing_is_refused(forms):
    prepare(forms, GPU).rename(forms.folder(CPU))

    with pytest.raises(
        CheckpointError, match="is packed as int8-bfloat16, these settings ask for plain-float32"
    ):
        forms.find(CPU)


def test_verify_refuses_when_only_another_packing_is_prepared(forms):
    prepare(forms, GPU)

    assert forms.find(CPU) is None, "the source serves"
    with pytest.raises(CheckpointError, match="int8-bfloat16-v1 is packed as int8-bfloat16") as raised:
        forms.verify(CPU)
    assert REMEDY in raised.value.detail


def test_a_form_of_replaced_source_weights_is_refused_and_made_again(forms, models):
    prepare(forms, CPU)
    (forms.source / "model_index.json").write_text((forms.source / "model_index.json").read_text() + "\n")
    weights.write_manifest(forms.source)

    with pytest.raises(CheckpointError, match="was prepared from other bytes"):
        forms.find(CPU)

    folder = prepare(forms, CPU)
    assert forms.find(CPU) == folder
    assert names(models) == ["random-0", folder.name]


@pytest.mark.parametrize("large", [False, True])
def test_a_damaged_form_is_made_again(forms, models, monkeypatch, large):
    if large:
        monkeypatch.setattr(weights, "_HASH_AT_EACH_START_BYTES", 0)
    folder = prepare(forms, CPU)
    flip(folder / "vae/00001.safetensors")

    assert prepare(forms, CPU) == folder
    assert forms.verify(CPU) == [folder]
    assert names(models) == ["random-0", folder.name]


def test_a_kill_half_way_leaves_what_was_there_and_the_next_one_cleans_up(forms, models):
    child = subprocess.Popen(
        [sys.executable, "-c", RUN, str(models), "0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline().startswith("text_encoder"), "a shard is written"
    partial = forms.folder(CPU).name + ".partial"
    assert names(models) == ["random-0", partial]

    with pytest.raises(ConfigurationError, match="another process is preparing weights"):
        prepare(forms, CPU)
    child.send_signal(signal.SIGKILL)
    child.communicate()

    assert names(models) == ["random-0", partial]
    assert forms.find(CPU) is None and forms.all() == [], "the source serves"
    folder = prepare(forms, CPU)
    assert forms.verify(CPU) == [folder]
    assert names(models) == ["random-0", folder.name]


def test_a_kill_between_the_two_renames_leaves_the_source(forms, models):
    folder = prepare(forms, CPU)
    folder.rename(folder.with_name(folder.name + ".replaced"))  # as such a kill leaves it
    shutil.copytree(folder.with_name(folder.name + ".replaced"), folder.with_name(folder.name + ".partial"))

    assert forms.find(CPU) is None
    assert forms.all() == []
    prepare(forms, CPU)
    assert names(models) == ["random-0", folder.name]


def test_a_file_that_may_not_grow_is_a_full_disk_and_leaves_nothing(forms, models):
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(models), "15000"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 7, done.stderr
    assert "could not be written: File too large" in done.stdout
    assert REMEDY in done.stdout
    assert names(models) == ["random-0"]


def test_a_full_disk_leaves_what_was_there_and_says_how_to_go_on(tiny_checkpoint, tmp_path):
    with small_disk_at(tmp_path / "disk", "500k") as models:
        shutil.copytree(tiny_checkpoint, models / "tiny-random" / "random-0")
        forms = Forms.of(TINY_RANDOM, models / "tiny-random" / "random-0", models)

        with pytest.raises(DiskFullError, match="No space left on device") as raised:
            prepare(forms, CPU)

        assert "make room and run again" in raised.value.detail
        assert REMEDY in raised.value.detail
        assert names(models) == ["random-0"]
        assert weights.verify(TINY_RANDOM, models).folder == forms.source


def test_a_wrong_byte_of_a_large_source_is_not_packed(forms, models, monkeypatch):
    monkeypatch.setattr(weights, "_HASH_AT_EACH_START_BYTES", 0)
    flip(forms.source / "transformer" / "diffusion_pytorch_model.safetensors")
    assert weights.locate(TINY_RANDOM, models).folder == forms.source, "only sizes are looked at"

    with pytest.raises(CheckpointError, match=r"diffusion_pytorch_model\.safetensors was altered"):
        prepare(forms, CPU)

    assert names(models) == ["random-0"]


def test_a_damaged_source_is_named_with_its_damaged_forms_and_without_whole_ones(forms, models):
    whole, damaged = prepare(forms, CPU), prepare(forms, GPU)
    flip(damaged / "vae/00001.safetensors")
    (forms.source / "model_index.json").unlink()

    with pytest.raises(CheckpointError, match=r"random-0/model_index\.json is missing") as raised:
        locate_or_name_all(TINY_RANDOM, models)

    assert f"{damaged.name}/vae/00001.safetensors was altered" in raised.value.detail
    assert whole.name not in raised.value.detail


def test_a_wrong_source_is_named_and_leaves_nothing(forms, models):
    path = forms.source / "transformer" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])

    with pytest.raises(
        CheckpointError, match=r"transformer/diffusion_pytorch_model\.safetensors is truncated"
    ):
        prepare(forms, CPU)

    assert names(models) == ["random-0"]


def test_an_interrupted_folder_is_removed_at_once(tmp_path):
    with pytest.raises(KeyboardInterrupt), appearing(tmp_path / "whole") as folder:
        (folder / "half").write_text("half")
        raise KeyboardInterrupt

    assert [path.name for path in tmp_path.iterdir()] == [LOCK]
