"""Clips on the Volume: all or nothing, checked on the way in, swept in time. The client is real, the server ours."""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import modal
import pytest
from grpclib import Status

from anime_studio.core.errors import StorageError
from anime_studio.core.jobs import Asset, StoredClip
from anime_studio.on_modal.clips import MountedClips, VolumeClips, sweep_clips
from support.clips import render
from support.modal_plane import ControlPlane

CLIP_ID = "c_" + "1" * 32
NAME = "anime-outputs"

pytestmark = pytest.mark.modal


@pytest.fixture
def plane(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    control_plane.volumes.create(NAME)
    with control_plane.client():
        yield control_plane


@pytest.fixture
def volume(plane: ControlPlane) -> modal.Volume:
    return modal.Volume.from_name(NAME)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def publish(plane: ControlPlane, folder: Path, clip_id: str = CLIP_ID, seed: int = 0) -> StoredClip:
    """Publish through a mount whose commit is the only thing that makes files visible."""
    mount = folder / "mount"
    mount.mkdir(exist_ok=True)

    def commit() -> None:
        for path in mount.iterdir():
            plane.volumes.write(NAME, path.name, path.read_bytes())

    return MountedClips(mount, commit).publish(clip_id, render(folder / "scratch", seed=seed))


async def test_a_published_clip_is_found_and_its_bytes_are_those_that_were_rendered(
    plane: ControlPlane, volume: modal.Volume, tmp_path: Path, cache: Path
):
    rendered = render(tmp_path / "same")
    clip = publish(plane, tmp_path)
    clips = VolumeClips(volume, cache, max_bytes=10**9)
    assert await clips.find(CLIP_ID) == clip
    for asset, source in ((Asset.VIDEO, rendered.video), (Asset.POSTER, rendered.poster)):
        file = await clips.open(clip, asset)
        assert file is not None and file.path.read_bytes() == source.read_bytes()
        assert (file.size_bytes, file.sha256) == clip.size_and_hash(asset)
    assert await clips.find("c_" + "2" * 32) is None and await clips.find("../etc/passwd") is None


def test_without_a_commit_nothing_is_published(plane: ControlPlane, tmp_path: Path):
    (tmp_path / "mount").mkdir()

    def refuse() -> None:
        raise modal.exception.InternalError("commit failed")

    with pytest.raises(StorageError, match="commit failed"):
        MountedClips(tmp_path / "mount", refuse).publish(CLIP_ID, render(tmp_path / "scratch"))
    assert plane.volumes.read(NAME) == {}


def test_the_sidecar_comes_last(tmp_path: Path):
    (tmp_path / "mount").mkdir()
    rendered = replace(render(tmp_path / "scratch"), poster=tmp_path / "absent.jpg")
    with pytest.raises(FileNotFoundError):
        MountedClips(tmp_path / "mount", lambda: None).publish(CLIP_ID, rendered)
    assert not list((tmp_path / "mount").glob("*.json")), "a clip of one file would be served"


async def test_a_second_look_costs_no_call_and_a_removed_clip_is_gone(
    plane: ControlPlane, volume: modal.Volume, tmp_path: Path, cache: Path
):
    clip = publish(plane, tmp_path)
    clips = VolumeClips(volume, cache, max_bytes=10**9)
    await clips.find(CLIP_ID)
    await clips.open(clip, Asset.VIDEO)
    before = len(plane.traffic.log)
    await clips.find(CLIP_ID)
    await clips.open(clip, Asset.VIDEO)
    assert len(plane.traffic.log) == before
    await clips.remove(CLIP_ID)
    assert plane.volumes.read(NAME) == {} and await clips.find(CLIP_ID) is None
    assert not list(cache.glob("*.mp4"))
    await clips.remove(CLIP_ID)


@pytest.mark.parametrize("damage", ["truncated", "altered", "absent"])
async def test_a_damaged_file_is_not_served_and_not_stored(
    plane: ControlPlane, volume: modal.Volume, tmp_path: Path, cache: Path, damage: str
):
    clip = publish(plane, tmp_path)
    (name,) = [name for name in plane.volumes.read(NAME) if name.endswith(".mp4")]
    data = plane.volumes.read(NAME)[name]
    if damage == "absent":
        await volume.remove_file.aio(name)
    else:
        plane.volumes.write(NAME, name, data[:-1] if damage == "truncated" else data[:-1] + b"?")
    clips = VolumeClips(volume, cache, max_bytes=10**9)
    assert await clips.open(clip, Asset.VIDEO) is None
    assert not list(cache.glob("*")), "neither the file nor a part of it"


async def test_the_cache_is_bounded_and_the_newest_stays(
    plane: ControlPlane, volume: modal.Volume, tmp_path: Path, cache: Path
):
    published = [publish(plane, tmp_path, f"c_{n:032x}", seed=n) for n in range(3)]
    bound = published[0].size_bytes + published[1].size_bytes
    clips = VolumeClips(volume, cache, max_bytes=bound)
    for age_s, clip in zip((30, 20, 10), published, strict=True):
        file = await clips.open(clip, Asset.VIDEO)
        assert file is not None and file.path.exists()
        os.utime(file.path, times=(time.time() - age_s,) * 2)  # no clock of a file system is fine enough
        assert sum(path.stat().st_size for path in cache.iterdir()) <= max(bound, file.size_bytes)
    assert not list(cache.glob(f"{published[0].clip_id}*"))
    assert (await clips.open(published[0], Asset.VIDEO)) is not None, "it is fetched again"


async def test_a_volume_that_cannot_be_reached_is_an_error_and_never_a_missing_clip(
    plane: ControlPlane, volume: modal.Volume, cache: Path
):
    plane.fail_next("VolumeGetFile2", Status.INTERNAL, times=20)
    plane.fail_next("VolumeGetFile", Status.INTERNAL, times=20)
    with pytest.raises(StorageError):
        await VolumeClips(volume, cache, max_bytes=1).find(CLIP_ID)


async def test_the_cleaner_removes_old_clips_and_remains_and_nothing_else(
    plane: ControlPlane, volume: modal.Volume, tmp_path: Path
):
    old, young = publish(plane, tmp_path, "c_" + "a" * 32, 1), publish(plane, tmp_path, "c_" + "b" * 32, 2)
    for name in (f"c_{'c' * 32}.0123456789abcdef.mp4", f"c_{'b' * 32}.mp4.partial"):
        plane.volumes.write(NAME, name, b"remains of a crash")
    files = plane.volumes.named(NAME).files  # type: ignore[union-attr]
    day_before = time.time() - 25 * 3600
    for name, file in files.items():
        if young.clip_id not in name or name.endswith(".partial"):
            files[name] = replace(file, mtime_s=day_before)
    swept = await sweep_clips(volume, datetime.now(UTC), timedelta(hours=24))
    assert swept == [old.clip_id]
    left = plane.volumes.read(NAME)
    assert sorted(Path(name).suffix for name in left) == [".jpg", ".json", ".mp4"]
    assert all(name.startswith(young.clip_id) for name in left)
    assert json.loads(left[f"{young.clip_id}.json"])["clip_id"] == young.clip_id
