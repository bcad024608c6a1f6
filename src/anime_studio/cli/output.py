"""What every command writes: its result to standard output, all else to standard error, and an exit code.

With `--json`, standard output holds exactly one JSON document, and an error is a problem
document (RFC 9457, as over HTTP) on standard error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Annotated, Any, Final

import typer
from pydantic import BaseModel
from rich.console import Console

from anime_studio.client import (
    DEFAULT_URL,
    ClientSettingsError,
    DownloadError,
    JobEndedError,
    JobTimeoutError,
    RefusedError,
    StudioError,
    UnavailableError,
    UnreachableError,
)
from anime_studio.client.errors import own_problem
from anime_studio.core.errors import (
    AnimeStudioError,
    ConfigurationError,
    DiskFullError,
    HubDeniedError,
    HubNotFoundError,
    HubRateLimitedError,
    HubUnreachableError,
    ReportedError,
    RequestError,
)
from anime_studio.core.errors import UnavailableError as ServiceUnavailableError
from anime_studio.core.plain_text import visible
from common.schemas import Problem


class ExitCode(IntEnum):
    """The exit codes; `EXIT_CODES` describes them to people."""

    OK = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    UNREACHABLE = 4
    TIMED_OUT = 5
    UNAVAILABLE = 6
    FILE = 7
    INTERRUPTED = 130


EXIT_CODES: Final = (
    "Exit codes: 0 done · 1 the job ended without a clip · 2 wrong usage or setting · 3 refused by the server · "
    "4 no server answers · 5 timed out, the job goes on · 6 the server cannot take work now · "
    "7 a file could not be written or fetched · 130 interrupted."
)

UrlOption = Annotated[
    str,
    typer.Option("--url", envvar="ANIME_STUDIO_URL", help="Address of the studio.", metavar="URL"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
TimeoutOption = Annotated[
    float | None,
    typer.Option("--timeout", min=0.1, help="Stop waiting after so many seconds; the job goes on."),
]

_CODE_BY_ERROR: Final[tuple[tuple[type[Exception], ExitCode], ...]] = (
    (ClientSettingsError, ExitCode.USAGE),
    (JobTimeoutError, ExitCode.TIMED_OUT),
    (JobEndedError, ExitCode.FAILED),
    (UnreachableError, ExitCode.UNREACHABLE),
    (RefusedError, ExitCode.REFUSED),
    (DownloadError, ExitCode.FILE),
    (UnavailableError, ExitCode.UNAVAILABLE),
    (ConfigurationError, ExitCode.USAGE),
    (RequestError, ExitCode.USAGE),
    (ServiceUnavailableError, ExitCode.UNAVAILABLE),
    (ReportedError, ExitCode.UNAVAILABLE),
    (HubUnreachableError, ExitCode.UNREACHABLE),
    (HubRateLimitedError, ExitCode.UNAVAILABLE),
    (HubDeniedError, ExitCode.REFUSED),
    (HubNotFoundError, ExitCode.USAGE),
    (DiskFullError, ExitCode.FILE),
)


class Output:
    """Where a command writes."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.people = Console(stderr=True, highlight=False, soft_wrap=True)

    def result(self, document: BaseModel | dict[str, Any] | list[Any], text: str) -> None:
        """Write the result: *document* for programs, or *text* for people."""
        if self.as_json:
            content = document.model_dump(mode="json") if isinstance(document, BaseModel) else document
            typer.echo(json.dumps(content, ensure_ascii=False, indent=2))
        else:
            typer.echo(visible(text))

    def info(self, text: str) -> None:
        """Write a line for people about what happens now."""
        if not self.as_json:
            self.people.print(visible(text), markup=False)

    def problem(self, problem: Problem, hint: str | None = None) -> None:
        """Write what went wrong, and what to do next."""
        if self.as_json:
            typer.echo(problem.model_dump_json(exclude_none=True), err=True)
            return
        self.people.print(f"error: {visible(problem.detail)} [{problem.code}]", markup=False, style="red")
        if hint:
            self.people.print(f"next: {hint}", markup=False)


@contextmanager
def answering(*, as_json: bool) -> Iterator[Output]:
    """Give a command its output, and turn an error that it raises into a message and an exit code."""
    output = Output(as_json=as_json)
    try:
        yield output
    except (StudioError, AnimeStudioError) as error:
        output.problem(_problem_of(error), hint_for(error))
        raise typer.Exit(exit_code_of(error)) from None
    except OSError as error:
        detail = f"{error.filename2 or error.filename or 'a file'}: {error.strerror or error}"
        output.problem(own_problem("file_failed", detail))
        raise typer.Exit(ExitCode.FILE) from None
    except KeyboardInterrupt:
        output.info("interrupted")
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def _problem_of(error: StudioError | AnimeStudioError) -> Problem:
    if isinstance(error, StudioError):
        return error.problem
    # The error of this very process: its user may see where the file is.
    return error.problem().model_copy(update={"detail": error.detail})


def exit_code_of(error: Exception) -> ExitCode:
    """Return the exit code for *error*."""
    return next((code for kind, code in _CODE_BY_ERROR if isinstance(error, kind)), ExitCode.FAILED)


def hint_for(error: Exception) -> str | None:
    """Return the next command, where there is one."""
    match error:
        case UnreachableError(url=url) if url == DEFAULT_URL:
            return "start a server with: anime-studio serve (in another terminal), or name one with --url"
        case UnreachableError():
            return "check the address (--url or ANIME_STUDIO_URL); anime-studio doctor says what is missing"
        case JobTimeoutError(job_id=job_id):
            return f"anime-studio fetch {job_id}"
        case UnavailableError():
            return "anime-studio status tells when it is ready; anime-studio doctor says what is missing"
    return None
