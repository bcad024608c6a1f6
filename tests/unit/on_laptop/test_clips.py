"""Clips on a real disk: whole, checked, or not there."""

import errno
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from anime_studio.core.errors import DiskFullError, StorageError
from anime_studio.core.jobs import Asset, StoredClip
from anime_studio.on_laptop.clips import FolderClips, Retention
from support.clips import render
from support.disks import small_disk_at

CLIP_ID = "c_" + "a" * 32
OTHER_ID = "c_" + "b" * 32


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "clips"


@pytest.fixture
def clips(folder: Path) -> FolderClips:
    return FolderClips(folder)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk_at(tmp_path / "disk", "256k") as mount:
        yield mount


async def test_a_published_clip_is_read_back_whole(clips: FolderClips, tmp_path: Path) -> None:
    rendered = render(tmp_path / "scratch")
    clip = clips.publish(CLIP_ID, rendered)
    assert await clips.find(CLIP_ID) == clip
    for asset, source in ((Asset.VIDEO, rendered.video), (Asset.POSTER, rendered.poster)):
        file = await clips.open(clip, asset)
        assert file is not None
        assert file.path.read_bytes() == source.read_bytes()
        assert (file.size_bytes, file.sha256) == clip.size_and_hash(asset)
        assert file.content_type == asset.content_type


async def test_a_second_publish_replaces_the_first_and_leaves_nothing(
    clips: FolderClips, folder: Path, tmp_path: Path
) -> None:
    first = clips.publish(CLIP_ID, render(tmp_path / "one", seed=1))
    second = clips.publish(CLIP_ID, render(tmp_path / "two", seed=2))
    assert await clips.find(CLIP_ID) == second
    assert await clips.open(second, Asset.VIDEO) is not None
    assert await clips.open(first, Asset.VIDEO) is None
    assert len(list(folder.iterdir())) == 3


@pytest.mark.parametrize("asset", Asset)
@pytest.mark.parametrize("damage", ["truncated", "one bit flipped", "emptied", "removed"])
async def test_a_damaged_file_is_gone_and_named(
    clips: FolderClips, tmp_path: Path, asset: Asset, damage: str
) -> None:
    clip = clips.publish(CLIP_ID, render(tmp_path / "scratch"))
    file = await clips.open(clip, asset)  # verified once already
    assert file is not None
    content = file.path.read_bytes()
    if damage == "truncated":
        os.truncate(file.path, len(content) - 1)
    elif damage == "emptied":
        os.truncate(file.path, 0)
    elif damage == "removed":
        file.path.unlink()
    else:
        file.path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with capture_logs() as logs:
        assert await clips.open(clip, asset) is None
        assert await clips.open(clip, asset) is None
    assert not file.path.exists()
    named = [entry["file"] for entry in logs if entry["event"] == "clip.damaged"]
    assert named == ([] if damage == "removed" else [str(file.path)])


async def test_a_damaged_sidecar_hides_the_clip(clips: FolderClips, folder: Path, tmp_path: Path) -> None:
    clips.publish(CLIP_ID, render(tmp_path / "scratch"))
    (folder / f"{CLIP_ID}.json").write_text('{"clip_id": "c_')
    with capture_logs() as logs:
        assert await clips.find(CLIP_ID) is None
    assert [entry["event"] for entry in logs] == ["clip.damaged"]


async def test_only_clip_ids_are_looked_up(clips: FolderClips, folder: Path, tmp_path: Path) -> None:
    clip = clips.publish(CLIP_ID, render(tmp_path / "scratch"))
    outside = clip.model_dump() | {"clip_id": CLIP_ID}
    (tmp_path / "secret.json").write_text(json.dumps(outside))
    for clip_id in ("../secret", f"{CLIP_ID}\n", CLIP_ID.upper(), "", f"{CLIP_ID}/../{CLIP_ID}"):
        assert await clips.find(clip_id) is None


@pytest.mark.parametrize("dies_before", range(6))
async def test_nothing_partial_is_ever_visible(
    clips: FolderClips, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_before: int
) -> None:
    """The process ends before its n-th sync or rename; a restart cleans up and publishes again."""

    class Died(BaseException):
        pass

    calls = iter(range(100))

    def die_or(action: object) -> object:
        def call(*args: object) -> object:
            if next(calls) == dies_before:
                monkeypatch.undo()
                monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)  # the dead clean nothing up
                raise Died
            return action(*args)  # type: ignore[operator]

        return call

    monkeypatch.setattr(os, "fsync", die_or(os.fsync))
    monkeypatch.setattr(Path, "replace", die_or(Path.replace))
    with pytest.raises(Died):
        clips.publish(CLIP_ID, render(tmp_path / "scratch"))
    monkeypatch.undo()
    assert await clips.find(CLIP_ID) is None

    restarted = FolderClips(folder)
    removed = restarted.remove_orphans()
    assert removed
    assert list(folder.iterdir()) == []
    clip = restarted.publish(CLIP_ID, render(tmp_path / "scratch"))
    assert await restarted.open(clip, Asset.VIDEO) is not None
    assert restarted.remove_orphans() == []


async def test_a_full_disk_is_reported_and_recovered_from(small_disk: Path, tmp_path: Path) -> None:
    clips = FolderClips(small_disk / "clips")
    clips.publish(OTHER_ID, render(tmp_path / "other"))
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space left"), filler.open("wb") as file:
        while True:
            file.write(b"x" * 4096)
    with pytest.raises(DiskFullError, match=f"{CLIP_ID}.*free some space"):
        clips.publish(CLIP_ID, render(tmp_path / "scratch"))
    assert await clips.find(CLIP_ID) is None
    assert not list((small_disk / "clips").glob(f"{CLIP_ID}*"))
    other = await clips.find(OTHER_ID)
    assert other is not None
    assert await clips.open(other, Asset.VIDEO) is not None
    filler.unlink()
    clip = clips.publish(CLIP_ID, render(tmp_path / "scratch"))
    assert await clips.open(clip, Asset.VIDEO) is not None


def test_another_fault_of_the_disk_is_not_called_full(
    clips: FolderClips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(StorageError, match="Input/output error") as raised:
        clips.publish(CLIP_ID, render(tmp_path / "scratch"))
    assert raised.value.code == "storage_failed"


async def test_clips_expire_by_age_then_the_oldest_for_room_but_never_under_a_fresh_link(
    clips: FolderClips, folder: Path, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    published: list[StoredClip] = []
    for number, age_s in enumerate((90_000, 5_000, 4_000, 100)):
        clip = clips.publish(f"c_{number:032x}", render(tmp_path / "scratch", seed=number))
        os.utime(folder / f"{clip.clip_id}.json", times=(now.timestamp() - age_s,) * 2)
        published.append(clip)

    def retention(max_bytes: int) -> Retention:
        return Retention(max_age=timedelta(days=1), max_bytes=max_bytes, min_age=timedelta(seconds=900))

    sizes = [clip.size_bytes + clip.poster_size_bytes for clip in published]
    assert clips.sweep(now, retention(10**9)) == [published[0].clip_id]  # too old
    assert clips.sweep(now, retention(sum(sizes[1:]) - 1)) == [published[1].clip_id]  # for room
    assert clips.sweep(now, retention(1)) == [published[2].clip_id]  # the last one's link still lives
    assert await clips.open(published[1], Asset.VIDEO) is None
    assert await clips.find(published[3].clip_id) == published[3]
    assert len(list(folder.iterdir())) == 3


async def test_removing_a_clip_takes_its_files(clips: FolderClips, folder: Path, tmp_path: Path) -> None:
    clips.publish(CLIP_ID, render(tmp_path / "scratch"))
    await clips.remove(CLIP_ID)
    await clips.remove(CLIP_ID)
    assert list(folder.iterdir()) == []
