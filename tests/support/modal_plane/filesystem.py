"""What a container finds on disk: uploaded files, the image's packages, Volumes, system folders, the interpreter.

The layout is exact (`/root`, `/pkg`, Volume paths as declared); the repository and the home folder are not
visible. The interpreter is this one, started with `-S` so that no site-packages folder but the image's is read.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath

from .packages import CLIENT_DISTRIBUTIONS, closure, link_site_packages

BASE_PYTHON: str = sys._base_executable  # type: ignore[attr-defined]  # the interpreter under the venv
SITE_PACKAGES = Path(
    closure(["modal"]).distributions["modal"].locate_file("")  # type: ignore[arg-type]
).resolve()
SYSTEM_FOLDERS = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib64",
    "/lib32",
    "/etc",
    "/dev",
    "/proc",
    "/sys",
    "/opt",
]
INSIDE_SITE = PurePosixPath("/__modal/host-site-packages")
INSIDE_PYTHON = PurePosixPath("/__modal/python")
PYTHONPATH = ("/root", "/pkg", "/__modal/image-packages", "/__modal/deps")


@cache
def namespaces_work() -> bool:
    """Whether this kernel lets us make a private root folder; some hardened hosts and containers do not."""
    probe = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import boot\n"
        "boot.enter_namespaces(boot.load_libc())"
    )
    return subprocess.run([BASE_PYTHON, "-S", "-c", probe], capture_output=True).returncode == 0


def write_tree(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files, given by absolute path, under `folder` as if it were `/`."""
    for path, data in files.items():
        target = folder / path.lstrip("/")
        if ".." in PurePosixPath(path).parts:
            raise ValueError(f"uploaded path {path!r} leaves the root folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


@dataclass
class ContainerFilesystem:
    """Folders on this machine that become one container's root.

    Attributes:
        home: holds `fs/` (uploaded files), `modal/` (becomes `/__modal`), `root/` (mount point), `tmp/`.
        volumes: mount path -> (folder, read_only).
        requirements: what the image installs.
    """

    home: Path
    files: Mapping[str, bytes]
    requirements: list[str]
    volumes: dict[str, tuple[Path, bool]] = field(default_factory=dict)
    missing_packages: list[str] = field(default_factory=list)

    def lay_out(self) -> None:
        """Write everything that the container will see."""
        for name in ("root", "tmp", "fs/root", "modal/deps", "fs/pkg"):
            (self.home / name).mkdir(parents=True, exist_ok=True)
        write_tree(self.home / "fs", self.files)
        self._link("fs/pkg", ["modal", "synchronicity"])
        self._link("modal/deps", CLIENT_DISTRIBUTIONS)
        self._link("modal/image-packages", self.requirements)

    def _link(self, name: str, requirements: list[str]) -> None:
        if name == "modal/image-packages":
            found = closure(requirements)
            self.missing_packages = found.missing
            distributions = found.distributions
        else:  # Modal mounts exactly these, without what they require
            distributions = {n: closure([n]).distributions[n.replace("_", "-")] for n in requirements}
        link_site_packages(self.home / name, distributions.values(), Path(INSIDE_SITE))

    def command(self, argv: list[str], env: dict[str, str], cwd: str = "/root") -> list[str]:
        """Write the boot plan and return the command that starts `python <argv>` inside."""
        plan_path = self.home / "boot.json"
        python = self._python()
        plan = {
            "root": str(self.home / "root"),
            "links": [[f, str(Path(f).readlink())] for f in SYSTEM_FOLDERS if Path(f).is_symlink()],
            "binds": self._binds(),
            "folders": ["/tmp", "/var/tmp", cwd],
            "cwd": cwd,
            "argv": [python, "-S", *argv],
            "env": {**self._base_env(), **env},
        }
        plan_path.write_text(json.dumps(plan))
        boot = Path(__file__).with_name("boot.py")
        return [BASE_PYTHON, "-S", str(boot), str(plan_path)]

    def _base_env(self) -> dict[str, str]:
        env = {"PYTHONPATH": ":".join(PYTHONPATH), "PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/root"}
        if self._python().startswith(str(INSIDE_PYTHON)):
            env["LD_LIBRARY_PATH"] = str(INSIDE_PYTHON / "lib")  # a moved interpreter finds its own libpython
        return env

    def _python(self) -> str:
        real = Path(BASE_PYTHON).resolve()
        if real.is_relative_to("/usr"):
            return str(real)
        return str(INSIDE_PYTHON / real.relative_to(Path(sys.base_prefix).resolve()))

    def _binds(self) -> list[list[str | bool]]:
        binds: list[list[str | bool]] = []
        for folder in SYSTEM_FOLDERS:
            if Path(folder).is_dir() and not Path(folder).is_symlink():
                binds.append([folder, folder, False])
        binds.append([str(self.home / "modal"), "/__modal", False])
        binds.append([str(SITE_PACKAGES), str(INSIDE_SITE), False])
        if not Path(sys.base_prefix).resolve().is_relative_to("/usr"):
            binds.append([str(Path(sys.base_prefix).resolve()), str(INSIDE_PYTHON), False])
        binds.append([str(self.home / "tmp"), "/tmp", False])
        for entry in sorted((self.home / "fs").iterdir()):
            if f"/{entry.name}" in SYSTEM_FOLDERS or entry.name in ("__modal", "tmp"):
                raise ValueError(f"files uploaded under /{entry.name} are not emulated")
            binds.append([str(entry), f"/{entry.name}", False])
        binds += [
            [str(folder), path, read_only] for path, (folder, read_only) in sorted(self.volumes.items())
        ]
        return binds
