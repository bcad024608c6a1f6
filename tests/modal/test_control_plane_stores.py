"""Volumes and Dicts as a client outside any container sees them."""

import io

import modal
import pytest
from control_plane import ControlPlane
from grpclib import Status

BLOCK_BYTES = 8 * 1024 * 1024


@pytest.mark.parametrize("version", [1, 2])
def test_volume_upload_list_read_remove(control_plane: ControlPlane, version: int):
    large = bytes(range(256)) * (BLOCK_BYTES // 256) + b"tail"
    with control_plane.client():
        volume = modal.Volume.from_name("clips", create_if_missing=True, version=version)
        with volume.batch_upload() as batch:
            batch.put_file(io.BytesIO(large), "/a/large.bin")
            batch.put_file(io.BytesIO(b"small"), "/small.txt")
        assert b"".join(volume.read_file("a/large.bin")) == large
        assert [(e.path, e.type.name) for e in volume.listdir("/")] == [
            ("a", "DIRECTORY"),
            ("small.txt", "FILE"),
        ]
        assert [e.path for e in volume.listdir("/", recursive=True)] == ["a", "a/large.bin", "small.txt"]
        assert volume.listdir("/a")[0].size == len(large)
        with pytest.raises(FileExistsError), volume.batch_upload() as batch:
            batch.put_file(io.BytesIO(b"other"), "/small.txt")
        with volume.batch_upload(force=True) as batch:
            batch.put_file(io.BytesIO(b"other"), "/small.txt")
        assert b"".join(volume.read_file("small.txt")) == b"other"
        volume.copy_files(["small.txt"], "copy.txt")
        volume.remove_file("small.txt")
        with pytest.raises(FileNotFoundError):
            b"".join(volume.read_file("small.txt"))
        with pytest.raises(FileNotFoundError):
            volume.remove_file("small.txt")
        volume.remove_file("a", recursive=True)
    assert control_plane.volumes.read("clips") == {"copy.txt": b"other"}


def test_volume_that_does_not_exist(control_plane: ControlPlane):
    with (
        control_plane.client(),
        pytest.raises(modal.exception.NotFoundError, match="Volume 'absent' not found"),
    ):
        modal.Volume.from_name("absent").hydrate()


def test_commit_and_reload_need_a_container(control_plane: ControlPlane):
    control_plane.volumes.create("clips")
    with control_plane.client():
        volume = modal.Volume.from_name("clips")
        with pytest.raises((RuntimeError, modal.exception.Error)):
            volume.reload()


async def test_volume_read_file_from_async_code(control_plane: ControlPlane):
    control_plane.volumes.write("clips", "/x.mp4", b"0123")
    with control_plane.client():
        volume = modal.Volume.from_name("clips")
        assert b"".join([chunk async for chunk in volume.read_file.aio("x.mp4")]) == b"0123"


def test_dict(control_plane: ControlPlane):
    with control_plane.client():
        records = modal.Dict.from_name("jobs", create_if_missing=True)
        assert records.put("k", {"n": 1}, skip_if_exists=True)
        assert not records.put("k", {"n": 2}, skip_if_exists=True)
        assert records["k"] == {"n": 1} and records.get("absent") is None and "absent" not in records
        records.update({"a": 1, "b": 2})
        assert records.len() == 3 and sorted(records.keys()) == ["a", "b", "k"]
        assert dict(records.items())["b"] == 2
        assert records.pop("a") == 1
        with pytest.raises(KeyError):
            records.pop("a")
        control_plane.dicts.expire_all()
        assert records.len() == 0
        with pytest.raises(modal.exception.NotFoundError):
            modal.Dict.from_name("absent").hydrate()


def test_ordered_faults_reach_the_client_and_transient_ones_are_retried(control_plane: ControlPlane):
    with control_plane.client():
        records = modal.Dict.from_name("jobs", create_if_missing=True)
        control_plane.fail_next("DictUpdate", Status.UNAVAILABLE)
        assert records.put("k", 1)
        assert control_plane.traffic.log.count("DictUpdate") == 2
        control_plane.fail_next("DictGet", Status.RESOURCE_EXHAUSTED, "too many")
        with pytest.raises(modal.exception.ResourceExhaustedError, match="too many"):
            records.get("k")
        assert records.get("k") == 1
