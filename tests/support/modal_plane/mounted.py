"""A Volume inside one container: a private working copy, which others see only after a commit.

Source: `modal/volume.py` (commit) and modal.com/docs/guide/volumes: a container sees the state at its start; `commit`
publishes, and for each file the last writer wins.
"""

from pathlib import Path

from .blobs import BlobStore
from .volumes import Volume, VolumeFile

Stamp = tuple[int, int]


class MountedVolume:
    """The working copy of one Volume in one container."""

    def __init__(self, volume: Volume, blobs: BlobStore, folder: Path, read_only: bool) -> None:
        self.volume = volume
        self.folder = folder
        self.read_only = read_only
        self._blobs = blobs
        self._known: dict[str, Stamp] = {}
        self._check_out()

    def commit(self) -> None:
        """Publish new, changed and deleted files of the working copy; nothing can have changed in a read-only one."""
        if self.read_only:
            return
        found = self._scan()
        for path in self._known.keys() - found.keys():
            self.volume.files.pop(path, None)
        for path, stamp in found.items():
            if self._known.get(path) != stamp:
                data = (self.folder / path).read_bytes()
                self.volume.files[path] = VolumeFile(self._blobs.put(data), len(data))
        self._known = found

    def _check_out(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for path, file in list(self.volume.files.items()):
            target = self.folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self._blobs.get(file.sha256_hex))
        self._known = self._scan()

    def _scan(self) -> dict[str, Stamp]:
        files = (p for p in self.folder.rglob("*") if p.is_file())
        stats = ((p.relative_to(self.folder).as_posix(), p.stat()) for p in files)
        return {path: (s.st_mtime_ns, s.st_size) for path, s in stats}
