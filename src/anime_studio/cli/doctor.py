"""`doctor`: what is missing on this machine, and how to get it.

Looks without loading: installed packages are found by their metadata, a GPU by its driver's
own tool, so that it answers at once even where torch is broken.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from anime_studio import __version__
from anime_studio.cli.output import ExitCode, JsonOption, UrlOption, answering
from anime_studio.cli.serve import settings_with
from anime_studio.client import DEFAULT_URL, StudioClient, StudioError
from anime_studio.core.errors import AnimeStudioError
from anime_studio.core.recipes import get_recipe
from anime_studio.engine.acceleration import packing_asked
from anime_studio.prepared import PREPARE_COMMAND, VERIFY_COMMAND, Forms, locate_or_name_all
from anime_studio.settings import Settings
from anime_studio.weights import FETCH_COMMAND, read_manifest, size_bytes_of

GIB: Final = 1024**3
LOW_DISK_BYTES: Final = 2 * GIB
"""As much as clips may use by default (`Settings.clips_max_bytes`)."""
_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")
OLDEST_PYTHON, NEXT_PYTHON = (3, 11), (3, 14)

State = Literal["ok", "note", "missing"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at; `missing` makes the command end with 1, `note` does not."""

    name: str
    state: State
    detail: str
    remedy: str | None = None


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)


def doctor(
    recipe: Annotated[str | None, typer.Option(help="Look for its weights; default: the setting's.")] = None,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Say what is missing on this machine to serve, and how to get it. Ends with 1 if something is."""
    with answering(as_json=as_json) as output:
        settings = settings_with({} if recipe is None else {"recipe": recipe})
        findings = list(examine(settings, url))
        output.result([asdict(finding) for finding in findings], "\n".join(map(_line, findings)))
        if any(finding.state == "missing" for finding in findings):
            raise typer.Exit(ExitCode.FAILED)


def examine(settings: Settings, url: str) -> Iterator[Finding]:
    """Yield what is found, one by one."""
    yield _python()
    for extra, remark in (("server", "to serve"), ("engine", "to draw on this machine")):
        yield _extra(extra, remark)
    yield _optional_extra("modal", "to deploy")
    yield _gpu()
    yield from _weights(settings)
    yield _disk(settings.data_dir)
    yield _server(url)
    yield _port(settings)


def _line(finding: Finding) -> str:
    mark = {"ok": "ok     ", "note": "note   ", "missing": "MISSING"}[finding.state]
    remedy = f"\n                 -> {finding.remedy}" if finding.remedy else ""
    return f"{mark} {finding.name:<8} {finding.detail}{remedy}"


def _python() -> Finding:
    told = f"Python {sys.version.split()[0]}, anime-studio {__version__}"
    if OLDEST_PYTHON <= sys.version_info[:2] < NEXT_PYTHON:
        return Finding("python", "ok", told)
    return Finding("python", "missing", told, "use Python 3.11, 3.12 or 3.13")


def _extra(extra: str, purpose: str) -> Finding:
    lacking = _lacking(extra)
    if lacking:
        return Finding(
            extra, "missing", f"{', '.join(lacking)} ({purpose})", f"pip install 'anime-studio[{extra}]'"
        )
    torch = f", torch {version('torch')}" if extra == "engine" else ""
    return Finding(extra, "ok", f"installed{torch}")


def _optional_extra(extra: str, purpose: str) -> Finding:
    found = _extra(extra, purpose)
    return Finding(extra, "note" if found.state == "missing" else "ok", found.detail, found.remedy)


def _lacking(extra: str) -> Sequence[str]:
    """Return the packages of *extra* that are not installed; whether versions agree is for `pip check`."""
    lacking = []
    for requirement in requires("anime-studio") or ():
        name = _NAME.match(requirement)
        if name is None or not re.search(rf"extra == ['\"]{extra}['\"]", requirement):
            continue
        try:
            version(name[0])
        except PackageNotFoundError:
            lacking.append(name[0])
    return lacking


def _gpu() -> Finding:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Finding("gpu", "note", "no NVIDIA driver: this machine draws on its CPU (recipe demo)")
    query = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return Finding(
            "gpu", "note", f"{tool} fails: {error}", "repair the NVIDIA driver, or draw on the CPU"
        )
    return Finding("gpu", "ok", "; ".join(told.strip().splitlines()))


def _capability() -> tuple[int, int] | None:
    """Return the compute capability of the first GPU, None where there is none, without loading torch."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    query = [tool, "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
        major, minor = told.split()[0].split(".")
        return int(major), int(minor)
    except (OSError, subprocess.SubprocessError, LookupError, ValueError):
        return None  # what is wrong with the driver is said under `gpu`


def _weights(settings: Settings) -> Iterator[Finding]:
    recipe = get_recipe(settings.recipe)
    try:
        checkpoint = locate_or_name_all(recipe, settings.models_dir)
    except AnimeStudioError as error:
        fetch = f"{FETCH_COMMAND} --recipe {recipe.name}" if recipe.repo_id else None
        yield Finding("weights", "missing", error.detail, getattr(error, "command", fetch))
        return
    yield Finding("weights", "ok", f"recipe {settings.recipe}, revision {checkpoint.revision}")
    yield _prepared(settings, Forms.of(recipe, checkpoint.folder, settings.models_dir))


def _prepared(settings: Settings, forms: Forms) -> Finding:
    """Say of the form that these settings load whether a start would take it; checked as a start checks it."""
    packing = packing_asked(settings.device, accelerate=settings.accelerate, capability=_capability())
    remedy = f"{PREPARE_COMMAND} --recipe {settings.recipe}"
    try:
        form = forms.find(packing)
    except AnimeStudioError as error:
        wrong = error.detail.partition("; ")[0]
        return Finding("prepared", "note", f"{wrong}; each start loads the source instead, slower", remedy)
    if form is None:
        told = f"no {forms.folder(packing).name}: each start loads the source, slower"
        if others := [other.name for other in forms.all()]:
            told += f"; for other settings or versions there is {', '.join(others)}"
        if forms.unfinished(packing).exists():
            told += "; one is being prepared, or was interrupted: preparing again is safe"
        return Finding("prepared", "note", told, remedy)
    size_mb = size_bytes_of(read_manifest(form)) / 1e6
    told = f"{form.name}, {size_mb:,.1f} MB, complete, made from these weights"
    return Finding(
        "prepared", "ok", f"{told}; every byte is checked by: {VERIFY_COMMAND} --recipe {settings.recipe}"
    )


def _disk(folder: Path) -> Finding:
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free_bytes = shutil.disk_usage(there).free
    told = f"{free_bytes / GIB:.1f} GiB free for {folder}"
    if free_bytes >= LOW_DISK_BYTES:
        return Finding("disk", "ok", told)
    remedy = "free some space, or choose another folder: ANIME_STUDIO_DATA_DIR=<folder>"
    return Finding("disk", "missing", f"{told}, less than {LOW_DISK_BYTES / GIB:.0f}", remedy)


def _server(url: str) -> Finding:
    try:
        with StudioClient(url, retry_for_s=0) as studio:
            health, readiness = studio.health(), studio.ready()
    except StudioError as error:
        return Finding("server", "note", str(error), "anime-studio serve")
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--url") from None
    told = f"{url} answers: version {health.version}, recipe {health.recipe}; {readiness.detail}"
    return Finding("server", "ok" if readiness.ready else "note", told)


def _port(settings: Settings) -> Finding:
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            told = f"{settings.host}:{settings.port}: {error.strerror}"
            return Finding("port", "note", told, "if that is not your server: anime-studio serve --port 0")
    return Finding("port", "ok", f"{settings.host}:{settings.port} is free")
