"""`doctor`: what is missing on this machine, and how to get it.

Nothing heavy is imported: packages are found by their metadata and a GPU by its driver's own
tool, so the command answers at once, also where torch is broken.
"""

from __future__ import annotations

import contextlib
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
from anime_studio.checkpoints.atomic_folder import PARTIAL
from anime_studio.checkpoints.decoders import locate_with_decoder
from anime_studio.checkpoints.inventory import pinned_by
from anime_studio.checkpoints.manifest import Manifest, Packing
from anime_studio.checkpoints.pipeline_files import has_upscaler, text_encoder_bytes
from anime_studio.checkpoints.prepared import (
    PREPARE_COMMAND,
    VERIFY_COMMAND,
    all_prepared,
    find_prepared,
    prepared_folder,
)
from anime_studio.checkpoints.published_upscaler import NAME, PACKAGE, find_published, suits
from anime_studio.checkpoints.store import FETCH_COMMAND, Checkpoint
from anime_studio.cli.installing import install_command, upscaler_remedy
from anime_studio.cli.output import ExitCode, JsonOption, UrlOption, answering
from anime_studio.cli.serve import settings_with
from anime_studio.client import DEFAULT_URL, StudioClient, StudioError
from anime_studio.client.errors import shown
from anime_studio.core.errors import AnimeStudioError, ConfigurationError
from anime_studio.core.host_memory import usable_memory_bytes
from anime_studio.core.recipes import get_recipe
from anime_studio.engine.acceleration import options_for_capability, packing_for, packing_for_settings
from anime_studio.engine.card_memory import CardMemory, needed_bytes, too_little
from anime_studio.engine.fallback import Fallback
from anime_studio.on_laptop.offers import offered
from anime_studio.settings import Settings
from common.schemas import Resolution

MIB: Final = 1024**2
GIB: Final = 1024**3
LOW_DISK_BYTES: Final = 2 * GIB
"""As much as clips may use by default (`Settings.clips_max_bytes`)."""
BESIDE_TEXT_BYTES: Final = 3 * GIB
"""For Python, torch, a load that is in progress, and the system (a GPU's process without its weights: 1.0 GB, measured)."""
CONTEXT_MIB: Final = 527
"""A start's own context: of an idle H100 the driver's tool told 81,079 MiB to be free, and torch 80,552 (2026-11-27)."""
OLDEST_PYTHON, NEXT_PYTHON = (3, 11), (3, 14)

State = Literal["ok", "note", "missing"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked. The command ends with 1 if any is `missing`."""

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
    """Check one thing after another and yield each finding."""
    yield _python()
    yield _extra("server", "to serve")
    yield _extra("engine", "to draw on this machine")
    yield _extra("modal", "to deploy", without="note")
    yield _upscale()
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
    detail = f"Python {sys.version.split()[0]}, anime-studio {__version__}"
    if OLDEST_PYTHON <= sys.version_info[:2] < NEXT_PYTHON:
        return Finding("python", "ok", detail)
    return Finding("python", "missing", detail, "use Python 3.11, 3.12 or 3.13")


def _extra(extra: str, purpose: str, *, without: State = "missing") -> Finding:
    missing = missing_packages(extra, requires("anime-studio") or ())
    if missing:
        return Finding(extra, without, f"{', '.join(missing)} ({purpose})", install_command(extra))
    torch = f", torch {version('torch')}" if extra == "engine" else ""
    return Finding(extra, "ok", f"installed{torch}")


def _upscale() -> Finding:
    try:
        published = find_published()
    except AnimeStudioError as error:
        return Finding("upscale", "note", error.detail, upscaler_remedy())
    if published is None:
        return Finding("upscale", "note", f"{PACKAGE} (to draw Wan's clips larger)", upscaler_remedy())
    return Finding(
        "upscale", "ok", f"{NAME}, as published; `{PREPARE_COMMAND}` gives it to Wan's checkpoints"
    )


def missing_packages(extra: str, requirements: Sequence[str]) -> list[str]:
    """Return the packages of *extra* that are not installed; `pip check` compares the versions."""
    of_extra = re.compile(rf"([A-Za-z0-9._-]+).*extra == ['\"]{extra}['\"]")
    names = [match[1] for requirement in requirements if (match := of_extra.match(requirement))]
    return [name for name in names if not _is_installed(name)]


def _is_installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _gpu() -> Finding:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Finding("gpu", "note", "no NVIDIA driver: this machine draws on its CPU (recipe demo)")
    query = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        gpus = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return Finding(
            "gpu", "note", f"{tool} fails: {error}", "repair the NVIDIA driver, or draw on the CPU"
        )
    return Finding("gpu", "ok", "; ".join(gpus.strip().splitlines()))


def _has_gpu() -> bool:
    """Return whether the driver lists a GPU, without loading torch; what is wrong with it is said under `gpu`."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return False
    listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=20, check=False)
    return listed.returncode == 0 and bool(listed.stdout.strip())


def _weights(settings: Settings) -> Iterator[Finding]:
    recipe = get_recipe(settings.recipe)
    try:
        checkpoint = locate_with_decoder(recipe, settings.decoder, settings.models_dir)
    except ConfigurationError as error:
        yield Finding("weights", "missing", error.detail)
        return
    except AnimeStudioError as error:
        fetch = f"{FETCH_COMMAND} --recipe {recipe.name}" if recipe.repo_id else None
        yield Finding("weights", "missing", error.detail, getattr(error, "command", fetch))
        return
    detail = f"recipe {settings.recipe}, revision {checkpoint.revision}, decoder {checkpoint.decoder}"
    if recipe.repo_id is not None:
        detail += f"; {pinned_by(recipe, checkpoint.revision)}"
    yield Finding("weights", "ok", detail)
    packing = packing_for_settings(settings.device, has_gpu=_has_gpu())
    yield _prepared(settings, checkpoint, packing)
    yield from _sizes(settings, checkpoint, packing)
    yield _memory(settings, checkpoint, packing)
    if packing == packing_for("cuda"):
        yield from _gpu_memory(settings, checkpoint)


def _prepared(settings: Settings, checkpoint: Checkpoint, packing: Packing) -> Finding:
    """Find whether a start with these settings would load a prepared checkpoint; it is checked as a start checks it."""
    remedy = f"{PREPARE_COMMAND} --recipe {settings.recipe}"
    try:
        folder = find_prepared(checkpoint, packing)
    except AnimeStudioError as error:
        detail = f"{error.detail}; each start loads the source instead, slower"
        return Finding("prepared", "note", detail, remedy)
    if folder is None:
        folder = prepared_folder(checkpoint, packing)
        detail = f"no {folder.name}: each start loads the source, slower"
        if others := [other.name for other in all_prepared(checkpoint)]:
            detail += f"; for other settings or versions there is {', '.join(others)}"
        if folder.with_name(folder.name + PARTIAL).exists():
            detail += "; one is being prepared, or was interrupted: preparing again is safe"
        return Finding("prepared", "note", detail, remedy)
    if not _has_its_upscaler(settings, folder):
        return Finding("prepared", "note", f"{folder.name} has no upscaler, though one is installed", remedy)
    size_mb = Manifest.read(folder).size_bytes / 1e6
    detail = f"{folder.name}, {size_mb:,.1f} MB, complete, made from these weights; every byte is checked by"
    return Finding("prepared", "ok", f"{detail}: {VERIFY_COMMAND} --recipe {settings.recipe}")


def _sizes(settings: Settings, checkpoint: Checkpoint, packing: Packing) -> Iterator[Finding]:
    """Find whether a server would offer 1080p though the files that a start loads have no upscaler for it."""
    if Resolution.P1080 not in offered(settings).native_sizes:
        return
    loaded = checkpoint.folder
    with contextlib.suppress(AnimeStudioError):  # `_prepared` says why the source is loaded instead
        loaded = find_prepared(checkpoint, packing) or loaded
    with contextlib.suppress(AnimeStudioError):
        if has_upscaler(loaded):
            return
    detail = (
        f"1080p is offered, but {loaded.name}, which a start loads, has no upscaler: each such job would fail"
    )
    remedy = f"{PREPARE_COMMAND} --recipe {settings.recipe}, or ANIME_STUDIO_UPSCALER=false"
    yield Finding("sizes", "missing", detail, remedy)


def _has_its_upscaler(settings: Settings, prepared: Path) -> bool:
    """Return whether the prepared checkpoint has the published upscaler, as far as that is installed and suits it."""
    with contextlib.suppress(AnimeStudioError):
        return not suits(get_recipe(settings.recipe)) or find_published() is None or has_upscaler(prepared)
    return True  # `_upscale` says what is wrong with the package


def _memory(settings: Settings, checkpoint: Checkpoint, packing: Packing) -> Finding:
    """Find whether host memory holds the text encoder, where that is not on the GPU."""
    on_gpu = packing == packing_for("cuda")
    if on_gpu and settings.text == "gpu":
        return Finding("memory", "ok", "the text encoder is in the GPU's memory (ANIME_STUDIO_TEXT=gpu)")
    try:
        needed_bytes = text_encoder_bytes(checkpoint.folder, packing)
    except AnimeStudioError as error:
        return Finding("memory", "missing", error.detail, f"{VERIFY_COMMAND} --recipe {settings.recipe}")
    has_bytes = usable_memory_bytes()
    detail = (
        f"{has_bytes / 1e9:.1f} GB of host memory; the text encoder takes {needed_bytes / 1e9:.1f} of them"
    )
    if has_bytes > needed_bytes + BESIDE_TEXT_BYTES:
        return Finding("memory", "ok", detail)
    remedy = "keep it on the GPU: ANIME_STUDIO_TEXT=gpu; or draw with recipe demo"
    return Finding(
        "memory",
        "missing",
        f"{detail}, which leaves too little",
        remedy if on_gpu else "draw with recipe demo",
    )


def _gpu_memory(settings: Settings, checkpoint: Checkpoint) -> Iterator[Finding]:
    """Find whether the first GPU's memory holds the smallest combination of fast paths, by the rule of a start."""
    card = _first_card()
    if card is None:
        return
    memory, capability = card
    recipe, fallback = get_recipe(settings.recipe), Fallback(options_for_capability(capability))
    fallback.take_less_memory()
    least_bytes = needed_bytes(recipe, checkpoint.decoder, fallback.options)
    if least_bytes is None:  # nothing was measured
        return
    text_bytes = text_encoder_bytes(checkpoint.folder, packing_for("cuda")) if settings.text == "gpu" else 0
    least_bytes += text_bytes
    if least_bytes <= memory.free_bytes:
        free = f"{memory.free_bytes / GIB:.1f} of {memory.total_bytes / GIB:.1f} GiB of the GPU's memory are free"
        yield Finding(
            "gpu-free", "ok", f"{free}; recipe {recipe.name} needs {least_bytes / GIB:.1f} at least"
        )
        return
    state: State = (
        "missing" if least_bytes > memory.total_bytes else "note"
    )  # a studio that runs takes its share
    yield Finding("gpu-free", state, too_little(recipe, memory, least_bytes, text_bytes))


def _first_card() -> tuple[CardMemory, tuple[int, int]] | None:
    """Return the GPU that the driver lists first, as a start would find it: memory and compute capability.

    None where the driver does not tell.
    """
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    query = [tool, "--query-gpu=memory.free,memory.total,compute_cap", "--format=csv,noheader,nounits"]
    listed = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False).stdout
    found = re.match(r"(\d+), (\d+), (\d+)\.(\d+)\s", listed)  # MiB; what a card cannot tell is [N/A]
    if found is None:
        return None
    free_mib, total_mib, major, minor = map(int, found.groups())
    return CardMemory(max(0, free_mib - CONTEXT_MIB) * MIB, total_mib * MIB), (major, minor)


def _disk(folder: Path) -> Finding:
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free_bytes = shutil.disk_usage(existing).free
    detail = f"{free_bytes / GIB:.1f} GiB free for {folder}"
    if free_bytes >= LOW_DISK_BYTES:
        return Finding("disk", "ok", detail)
    remedy = "free some space, or choose another folder: ANIME_STUDIO_DATA_DIR=<folder>"
    return Finding("disk", "missing", f"{detail}, less than {LOW_DISK_BYTES / GIB:.0f}", remedy)


def _server(url: str) -> Finding:
    try:
        with StudioClient(url, retry_for_s=0) as studio:
            health, readiness = studio.health(), studio.ready()
    except StudioError as error:
        return Finding("server", "note", str(error), "anime-studio serve")
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--url") from None
    detail = f"{shown(url)} answers: version {health.version}, recipe {health.recipe}; {readiness.detail}"
    return Finding("server", "ok" if readiness.ready else "note", detail)


def _port(settings: Settings) -> Finding:
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            detail = f"{settings.host}:{settings.port}: {error.strerror}"
            return Finding("port", "note", detail, "if that is not your server: anime-studio serve --port 0")
    return Finding("port", "ok", f"{settings.host}:{settings.port} is free")
