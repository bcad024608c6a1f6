"""`deploy` and `keys`: put the studio on Modal, and make the keys that sign its links."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from anime_studio.cli.output import JsonOption, Output, answering
from anime_studio.core.errors import ConfigurationError, UnavailableError

DEPLOY: Final = ("modal", "deploy", "-m", "anime_studio.modal_app")
SOURCE: Final = Path(__file__).parents[2]

EnvironmentOption = Annotated[
    str | None, typer.Option("--env", envvar="MODAL_ENVIRONMENT", help="Modal environment.", metavar="NAME")
]

keys = typer.Typer(name="keys", help="The keys that sign clip links on Modal.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the command and the group."""
    app.command()(deploy)
    app.add_typer(keys)


def deploy(
    env: EnvironmentOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check, print the command, run nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Deploy the Modal app with the ANIME_STUDIO_ settings of this shell."""
    with answering(as_json=as_json) as output:
        require_client()
        from anime_studio.on_modal.settings import ModalSettings
        from anime_studio.on_modal.signing_keys import require_keys

        ModalSettings.read()
        require_keys(env)
        command = [*DEPLOY, *(("--env", env) if env else ())]
        output.info(f"PYTHONPATH={shlex.quote(str(SOURCE))} {shlex.join(command)}")
        if not dry_run:
            _run(command, output)
        output.result({"command": command, "deployed": not dry_run}, "checked" if dry_run else "deployed")


@keys.command()
def new(env: EnvironmentOption = None, as_json: JsonOption = False) -> None:
    """Make a signing key in the Secret; it signs from the next container on, and older ones still verify."""
    with answering(as_json=as_json) as output:
        require_client()
        from anime_studio.on_modal.signing_keys import add_key

        created = add_key(env)
        remedy = (
            "next: anime-studio deploy"
            if created
            else "running containers keep theirs until: anime-studio deploy"
        )
        verb = "made" if created else "got a newer key"
        output.result(
            {"secret": "anime-studio", "created": created}, f"the Secret anime-studio {verb}; {remedy}"
        )


@keys.command()
def operator(env: EnvironmentOption = None, as_json: JsonOption = False) -> None:
    """Make an operator's key in the Secret, in place of the last one, and show it this once."""
    with answering(as_json=as_json) as output:
        require_client()
        from anime_studio.on_modal.signing_keys import set_operator_key

        key = set_operator_key(env)
        output.result(
            {"secret": "anime-studio", "operator_key": key},
            f"{key}\nkeep it: it cannot be read again. Next: anime-studio deploy, then export ANIME_STUDIO_OPERATOR_KEY",
        )


def require_client() -> None:
    """Refuse to go on without the `modal` client.

    Raises:
        ConfigurationError: It names the command that installs it.
    """
    from importlib.util import find_spec

    if find_spec("modal") is None:
        raise ConfigurationError(
            "the modal client is not installed; install it with: pip install -e '.[modal]'"
        )


def _run(command: list[str], output: Output) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(SOURCE), os.environ.get("PYTHONPATH")))),
    }
    stdout = subprocess.DEVNULL if output.as_json else None
    code = subprocess.run([sys.executable, "-m", *command], env=environment, stdout=stdout).returncode
    if code != 0:
        raise UnavailableError(
            f"{shlex.join(command)} failed with exit code {code}; its output above says why"
        )
