"""`prove`: check a deployment on Modal, or the engine of this machine, row by row, and write a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anime_studio import __version__
from anime_studio.cli.installing import install_command
from anime_studio.cli.output import ExitCode, JsonOption, Output, answering
from anime_studio.cli.serve import settings_with
from anime_studio.core.errors import ConfigurationError
from common.prove import ProofReport, Verdict

FOLDER = Path("prove")
PromptsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Draw these prompts instead, one a line: pictures of the first, jobs of all in turn.",
    ),
]

app_of_prove = typer.Typer(name="prove", invoke_without_command=True)


def register(app: typer.Typer) -> None:
    """Add the command, and `bill` under it."""
    app.add_typer(app_of_prove)


@app_of_prove.callback()
def prove(
    context: typer.Context,
    local: Annotated[bool, typer.Option("--local", help="This machine's engine; nothing is billed.")] = False,
    row: Annotated[list[str] | None, typer.Option("--row", help="Check only this row, again.")] = None,
    starts: Annotated[int, typer.Option(min=1, help="Cold starts to force.")] = 8,
    budget_usd: Annotated[float, typer.Option(min=0, help="Begin nothing that should pass it.")] = 1.0,
    url: Annotated[str | None, typer.Option(help="Address of the studio; default: as deployed.")] = None,
    prompts: PromptsOption = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder of the report.")] = FOLDER,
    as_json: JsonOption = False,
) -> None:
    """Prove the deployment on your Modal account, as the shell's ANIME_STUDIO_ settings describe it.

    Says its price first and stops at the budget. Writes report.json, report.html and contact sheets. A run that was
    stopped goes on where it was; rows that were not checked are tried again. Ends with 1 unless every row holds.
    """
    if context.invoked_subcommand is not None:
        return
    with answering(as_json=as_json) as output:
        if local:
            report = _on_this_machine(output, out, row or [], prompts)
        else:
            report = _on_modal(
                output, out, row or [], prompts=prompts, starts=starts, budget_usd=budget_usd, url=url
            )
        _end(output, report, out)


@app_of_prove.command("bill")
def bill(
    out: Annotated[Path, typer.Argument(help="The folder of a run's report.")] = FOLDER,
    url: Annotated[str | None, typer.Option(help="As it was given to prove.")] = None,
    prompts: PromptsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare Modal's bill of a run's hours with its receipts, when the last hour is complete."""
    with answering(as_json=as_json) as output:
        _end(output, _on_modal(output, out, ["bill"], url=url, prompts=prompts), out)


def _on_this_machine(output: Output, out: Path, asked: list[str], prompts: Path | None) -> ProofReport:
    try:
        from anime_studio.prove.engine_rows import ENGINE_ROWS, EngineRows
        from anime_studio.prove.prompts import PROMPTS, read_prompts
        from anime_studio.prove.rows import Proof, Purse, Row, require_names
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"prove --local needs {error.name}; install it with: {install_command('engine')}"
        ) from None
    require_names(asked, ENGINE_ROWS)
    settings = settings_with({})
    own = read_prompts(prompts) if prompts else ()
    wanted = ProofReport(
        version=__version__,
        recipe=settings.recipe,
        device=settings.device,
        settings={"decoder": settings.decoder.value, "accelerate": str(settings.accelerate).lower()},
        prompts=own,
    )
    checks = EngineRows(settings, out, prompt=(own or PROMPTS)[0])
    rows = [Row(name, lambda name=name: checks.check(name)) for name in ENGINE_ROWS]  # type: ignore[misc]
    return Proof(wanted, out).check(rows, asked, Purse(0, 0, lambda _: None), output.info)


def _on_modal(
    output: Output,
    out: Path,
    asked: list[str],
    *,
    url: str | None,
    prompts: Path | None,
    starts: int = 0,
    budget_usd: float = 0.0,
) -> ProofReport:
    _require_client()
    from anime_studio.on_modal.settings import ModalSettings
    from anime_studio.prove.account import Account
    from anime_studio.prove.memory import MemoryFile
    from anime_studio.prove.modal_rows import BILL, ModalRows, wanted_report
    from anime_studio.prove.prompts import PROMPTS, read_prompts
    from anime_studio.prove.rows import Proof, Purse, require_names

    own = read_prompts(prompts) if prompts else ()
    settings, account = ModalSettings.read(), Account()
    url = url.rstrip("/") if url else account.web_url()
    proof = Proof(wanted_report(settings, url, own), out)
    if BILL in asked and not proof.resumed:
        raise ConfigurationError(
            f"{out} has no report of this deployment and these settings; first run: anime-studio prove"
        )
    purse = Purse(budget_usd, proof.report.spent_usd, lambda usd: proof.keep(spent_usd=usd))
    kept = MemoryFile(out, resumed=proof.resumed)
    with ModalRows(
        settings, account, url, out, kept, purse, output.info, starts=starts, prompts=own or PROMPTS
    ) as all_rows:
        rows = all_rows.rows()
        require_names(asked, rows)
        if asked != [BILL]:
            proof.keep(expected_usd=round(all_rows.expected_usd, 4))
            output.info(
                f"{url}: all rows should cost about ${all_rows.expected_usd:.2f} (projected), "
                f"${purse.spent_usd:.2f} are spent, and nothing begins that should pass ${budget_usd:.2f}"
            )
        return proof.check(rows, asked, purse, output.info)


def _end(output: Output, report: ProofReport, out: Path) -> None:
    from anime_studio.prove.page import in_words
    from anime_studio.prove.rows import PAGE

    spent = f", ${report.spent_usd:.2f} counted" if report.spent_usd else ""
    output.result(report, f"{in_words(report)}{spent}: {out / PAGE}")
    if any(row.verdict is not Verdict.HOLDS for row in report.rows):
        raise typer.Exit(ExitCode.FAILED)


def _require_client() -> None:
    from anime_studio.cli.modal import require_client

    require_client()
