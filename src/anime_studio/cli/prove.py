"""`prove`: check the engine on the real weights of this machine, row by row, and write a report."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from anime_studio import __version__
from anime_studio.checkpoints.atomic_folder import fsync
from anime_studio.cli.installing import install_command
from anime_studio.cli.output import ExitCode, JsonOption, Output, answering
from anime_studio.cli.serve import settings_with
from anime_studio.core.errors import ConfigurationError
from anime_studio.settings import Settings
from common.prove import ProofReport, ProofRow, Verdict


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(prove)


def prove(
    local: Annotated[bool, typer.Option("--local", help="On this machine; it must be said.")] = False,
    row: Annotated[list[str] | None, typer.Option("--row", help="Check only this row, again.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder of the report.")] = Path("prove"),
    as_json: JsonOption = False,
) -> None:
    """Check versions, weights, device, fast paths, samplers and decoders on this machine's real weights.

    Writes report.json, report.html and contact sheets. A run that was stopped goes on where it was; rows that
    were not checked are tried again. Ends with 1 unless every row holds.
    """
    with answering(as_json=as_json) as output:
        if not local:
            raise ConfigurationError("say where to prove: --local is this machine; nothing there is billed")
        report = _check_rows(output, settings_with({}), out, row or [])
        held = sum(each.verdict is Verdict.HOLDS for each in report.rows)
        output.result(report, f"{held} of {len(report.rows)} rows hold: {out / 'report.html'}")
        if held < len(report.rows):
            raise typer.Exit(ExitCode.FAILED)


def _check_rows(output: Output, settings: Settings, out: Path, asked: list[str]) -> ProofReport:
    try:
        from anime_studio.prove.engine_rows import ENGINE_ROWS, EngineRows
        from anime_studio.prove.page import render_page
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"prove --local needs {error.name}; install it with: {install_command('engine')}"
        ) from None
    if unknown := set(asked) - set(ENGINE_ROWS):
        raise ConfigurationError(f"no row {', '.join(sorted(unknown))}; there are: {', '.join(ENGINE_ROWS)}")
    out.mkdir(parents=True, exist_ok=True)
    report = ProofReport(version=__version__, recipe=settings.recipe, device=settings.device)
    done = {each.name: each for each in _earlier(out, report)}
    rows = EngineRows(settings, out)
    for name in ENGINE_ROWS:
        if name in asked or (not asked and (name not in done or done[name].verdict is Verdict.NOT_CHECKED)):
            output.info(f"checking {name}; it costs nothing but time")
            verdict, detail = rows.check(name)
            done[name] = ProofRow(
                name=name,
                verdict=verdict,
                detail=detail,
                picture=rows.picture(name),
                checked_at=datetime.now(UTC),
            )
            report = report.model_copy(update={"rows": tuple(done[n] for n in ENGINE_ROWS if n in done)})
            _write(out / "report.json", report.model_dump_json(indent=2))
        if name in done:
            output.info(f"{done[name].verdict.value:<11}  {name:<9} {done[name].detail}")
    report = report.model_copy(update={"rows": tuple(done[n] for n in ENGINE_ROWS if n in done)})
    _write(out / "report.html", render_page(report, out))
    return report


def _earlier(out: Path, wanted: ProofReport) -> tuple[ProofRow, ...]:
    """Return the rows of an earlier run of the same program, recipe and device; else none."""
    try:
        found = ProofReport.model_validate_json((out / "report.json").read_bytes())
    except FileNotFoundError:
        return ()
    except ValidationError:
        raise ConfigurationError(
            f"{out / 'report.json'} is no report of prove; name another folder with --out"
        ) from None
    return found.rows if found.model_copy(update={"rows": ()}) == wanted else ()


def _write(file: Path, text: str) -> None:
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(text, encoding="utf-8")
    fsync(partial)
    partial.replace(file)
