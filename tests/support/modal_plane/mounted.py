"""A Volume inside one container: a private working copy, which others see only after a commit.

Source: `modal/volume.py` (commit, reload) and modal.com/docs/guide/volumes: a container sees the state at its start;
`commit` publishes, and for each file the last writer wins; `reload` shows what others committed since, and is refused
while a file is open.
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
        self._checked_out: dict[str, str] = {}
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

    def reload(self) -> None:
        """Show the committed state; files that did not change stay as they are."""
        self.commit()
        for path in self._scan().keys() - self.volume.files.keys():
            (self.folder / path).unlink()
        self._check_out()

    def open_files(self, pid: int) -> bool:
        """Whether a process of the container that *pid* leads has a file of this Volume open or mapped."""
        inodes = {
            path.stat().st_ino for path in self.folder.rglob("*") if path.is_file()
        }  # a path has another name inside
        processes = (p for p in Path("/proc").iterdir() if p.name.isdigit() and _session_of(p) == pid)
        return any(_holds(int(process.name), inodes) for process in processes)

    def _check_out(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for path, file in list(self.volume.files.items()):
            if self._checked_out.get(path) == file.sha256_hex and path in self._known:
                continue
            target = self.folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self._blobs.get(file.sha256_hex))
            self._checked_out[path] = file.sha256_hex
        self._known = self._scan()

    def _scan(self) -> dict[str, Stamp]:
        files = (p for p in self.folder.rglob("*") if p.is_file())
        stats = ((p.relative_to(self.folder).as_posix(), p.stat()) for p in files)
        return {path: (s.st_mtime_ns, s.st_size) for path, s in stats}


def _session_of(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[3])  # man 5 proc, field 6
    except OSError:
        return 0


def _holds(pid: int, inodes: set[int]) -> bool:
    process = Path("/proc", str(pid))
    try:
        opened = {each.stat().st_ino for each in (process / "fd").iterdir()}
        mapped = {int(line.split(maxsplit=5)[4]) for line in (process / "maps").read_text().splitlines()}
    except OSError:
        return False
    return bool(inodes & (opened | mapped))
