"""Run as a script by the container launcher: enter a private root folder, then become the container process.

Reads one JSON file (its only argument): `root` (an empty folder), `binds` (source, target, read_only), `folders`
to create, `cwd`, `argv`, `env`. Needs Linux with user namespaces, no root and no container runtime. The process id
stays the same, so the launcher can kill it.
"""

import ctypes
import json
import os
import sys
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
LOCKED_FLAGS = {
    os.ST_NOSUID: 2,
    os.ST_NODEV: 4,
    os.ST_NOEXEC: 8,
    os.ST_NOATIME: 1024,
    os.ST_RELATIME: 1 << 21,
}


def load_libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mount.argtypes = [ctypes.c_char_p] * 3 + [ctypes.c_ulong, ctypes.c_char_p]
    return libc


def check(status: int, doing: str) -> None:
    if status != 0:
        raise OSError(ctypes.get_errno(), f"{doing}: {os.strerror(ctypes.get_errno())}")


def enter_namespaces(libc: ctypes.CDLL) -> None:
    uid, gid = os.getuid(), os.getgid()
    check(libc.unshare(CLONE_NEWUSER | CLONE_NEWNS), "unshare user and mount namespaces")
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        Path("/proc/self", name).write_text(text)
    check(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "make mounts private")


def bind(libc: ctypes.CDLL, source: Path, target: Path, read_only: bool) -> None:
    target.mkdir(parents=True, exist_ok=True) if source.is_dir() else target.touch()
    there = str(target).encode()
    check(libc.mount(str(source).encode(), there, None, MS_BIND | MS_REC, None), f"bind {source}")
    if read_only:
        kept = sum(flag for bit, flag in LOCKED_FLAGS.items() if os.statvfs(target).f_flag & bit)
        flags = MS_BIND | MS_REMOUNT | MS_RDONLY | kept
        check(libc.mount(b"none", there, None, flags, None), f"make {target} read-only")


def main(path: str) -> None:
    plan = json.loads(Path(path).read_text())
    libc, root = load_libc(), Path(plan["root"])
    enter_namespaces(libc)
    check(libc.mount(b"tmpfs", str(root).encode(), b"tmpfs", 0, None), "mount the root folder")
    for link, target in plan["links"]:
        (root / link[1:]).symlink_to(target)
    for source, target, read_only in plan["binds"]:
        bind(libc, Path(source), root / target[1:], read_only)
    for folder in plan["folders"]:
        (root / folder[1:]).mkdir(parents=True, exist_ok=True)
    os.chroot(root)
    os.chdir(plan["cwd"])
    os.execve(plan["argv"][0], plan["argv"], plan["env"])


if __name__ == "__main__":
    main(sys.argv[1])
