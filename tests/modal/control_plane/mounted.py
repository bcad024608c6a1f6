"""A Volume inside one container: a private working copy, shared with others only by commit and reload.

Source: `modal/volume.py` (commit, reload, their errors) and modal.com/docs/guide/volumes: a container sees the
state at its start; `commit` publishes, per file the last writer wins; `reload` is refused while a file is open or
the working directory lies inside.
"""

import shutil
from pathlib import Path

from grpclib import Status

from .blobs import BlobStore
from .rpc import fault
from .volumes import Volume, VolumeFile, clean

Stamp = tuple[int, int]


class MountedVolume:
    """The working copy of one Volume in one container."""

    def __init__(
        self, volume: Volume, blobs: BlobStore, folder: Path, sub_path: str, read_only: bool
    ) -> None:
        self.volume = volume
        self.folder = folder
        self.read_only = read_only
        self._blobs = blobs
        self._prefix = f"{clean(sub_path)}/" if clean(sub_path) else ""
        self._known: dict[str, Stamp] = {}
        self._check_out()

    def commit(self) -> None:
        """Publish new, changed and deleted files of the working copy; nothing can have changed in a read-only one."""
        if self.read_only:
            return
        found = self._scan()
        for path in self._known.keys() - found.keys():
            self.volume.files.pop(self._prefix + path, None)
        for path, stamp in found.items():
            if self._known.get(path) != stamp:
                data = (self.folder / path).read_bytes()
                self.volume.files[self._prefix + path] = VolumeFile(self._blobs.put(data), len(data))
        self._known = found

    def reload(self, pid: int) -> None:
        """Replace the working copy by the committed state, unless process `pid` holds a file open in it."""
        if open_path := self._open_path(pid):
            raise fault(
                Status.FAILED_PRECONDITION, f"there are open files preventing the operation: {open_path}"
            )
        self.commit()
        for child in self.folder.iterdir():
            shutil.rmtree(child) if child.is_dir() else child.unlink()
        self._check_out()

    def _check_out(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for path, file in list(self.volume.files.items()):
            if path.startswith(self._prefix):
                target = self.folder / path.removeprefix(self._prefix)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(self._blobs.get(file.sha256_hex))
        self._known = self._scan()

    def _scan(self) -> dict[str, Stamp]:
        files = (p for p in self.folder.rglob("*") if p.is_file())
        stats = ((p.relative_to(self.folder).as_posix(), p.stat()) for p in files)
        return {path: (s.st_mtime_ns, s.st_size) for path, s in stats}

    def _open_path(self, pid: int) -> str:
        # The container has its own mount namespace, so files are compared by device and inode, not by path.
        inside = {(s.st_dev, s.st_ino): p for p in [self.folder, *self.folder.rglob("*")] if (s := p.stat())}
        for link in [Path(f"/proc/{pid}/cwd"), *Path(f"/proc/{pid}/fd").glob("*")]:
            try:
                stat = link.stat()
            except OSError:  # closed in the meantime, or a socket
                continue
            if found := inside.get((stat.st_dev, stat.st_ino)):
                return str(found.relative_to(self.folder))
        return ""
