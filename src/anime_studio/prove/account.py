"""What `prove` asks of a Modal account: our deployed app, the containers, prices and the bill.

Everything here is Modal's public API but one: `TaskGetInfo`, which says when a container was asked for, when it began and
whether a snapshot was restored. Where a client has it no longer, `record_of` is None, and the rows say so.

Source: client 1.6.4, `modal/cls.py`, `modal/_functions.py` (`stats`), `modal/_workspace.py` (`billing`),
`modal/cli/container.py`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import modal

from anime_studio.core.errors import ConfigurationError, UnavailableError
from anime_studio.on_modal.errors import CLIENT_ERRORS
from anime_studio.on_modal.settings import APP_NAME, OUTPUTS_VOLUME
from common.prove import ContainerReport

STOP_TIMEOUT_S: Final = 60
_KINDS: Final = {1: "snapshot", 2: "restore", 3: "plain"}


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """What the platform recorded of a container.

    Attributes:
        kind: `restore` from a snapshot, `snapshot` if it made one, `plain` for neither, or empty if it does not say.
        queued_s: From when it was asked for to when it began; None if it does not say.
        ended: Whether it has stopped.
    """

    kind: str
    queued_s: float | None
    ended: bool


@dataclass(frozen=True, slots=True)
class BillLine:
    """One object's cost in one hour."""

    what: str
    usd: float
    usd_by_resource: Mapping[str, float]
    tags: Mapping[str, str]


class Account:
    """The account that the `modal` client of this shell is logged in to."""

    def web_url(self) -> str:
        """Return the address of the deployed HTTP app.

        Raises:
            ConfigurationError: The app is not deployed, or nobody is logged in.
        """
        with _words("the app cannot be found; deploy it with: anime-studio deploy"):
            url = modal.Function.from_name(APP_NAME, "web").get_web_url()
        if not url:
            raise ConfigurationError(
                "the deployed app has no web address; deploy it with: anime-studio deploy"
            )
        return url.rstrip("/")

    def report(self) -> ContainerReport:
        """Return what a GPU container says of itself; starts one if none is there."""
        with _words("no GPU container answered"):
            return ContainerReport.model_validate(
                modal.Cls.from_name(APP_NAME, "Generator")().report.remote()
            )

    def plain_start(self) -> ContainerReport:
        """Return what a container says that started without a snapshot; `first` only if it did so for this call."""
        with _words("no container for the rows answered"):
            return ContainerReport.model_validate(
                modal.Cls.from_name(APP_NAME, "Prover")().plain_start.remote()
            )

    def check(self, row: str, prompt: str) -> Mapping[str, Any]:
        """Return verdict, detail and picture of a row that a container on the deployment's card checks with *prompt*."""
        with _words("no container for the rows answered"):
            answer: Mapping[str, Any] = modal.Cls.from_name(APP_NAME, "Prover")().check.remote(row, prompt)
            return answer

    def stop(self, container: str) -> None:
        """End a container, as `modal container stop` does.

        Raises:
            UnavailableError: The command failed; its words follow.
        """
        command = [sys.executable, "-m", "modal", "container", "stop", "-y", container]
        done = subprocess.run(command, capture_output=True, text=True, timeout=STOP_TIMEOUT_S)
        words = " ".join((done.stdout + done.stderr).split())
        if done.returncode != 0 and "already stopped" not in words:
            raise UnavailableError(f"modal container stop {container} failed: {words[-300:]}")

    def record_of(self, container: str) -> TaskRecord | None:
        """Return the platform's record of a container; None if this client or account cannot read it."""
        try:
            info = _task_info(container)
        except (ImportError, AttributeError, *CLIENT_ERRORS):
            return None
        queued_s = info.started_at - info.enqueued_at if info.started_at and info.enqueued_at else None
        return TaskRecord(_KINDS.get(info.snapshot_behavior, ""), queued_s, bool(info.finished_at))

    def errors_since(self, moment: datetime) -> int | None:
        """Return how many GPU containers ended by an error since then; None if the account does not say."""
        try:
            stats = modal.Cls.from_name(APP_NAME, "Generator")().report.stats(since=moment)
        except (AttributeError, *CLIENT_ERRORS):
            return None
        return int(stats.container_error_count)

    def rates(self) -> dict[str, Decimal]:
        """Return today's prices by the platform's names of resources.

        Raises:
            UnavailableError: The account may not read them.
        """
        with _words("the prices cannot be read"):
            return dict(modal.Workspace.from_context().billing.rates().items())

    def bill(self, start: datetime, end: datetime) -> Sequence[BillLine]:
        """Return the bill of whole hours, with the tag `project`.

        Raises:
            UnavailableError: The account's plan has no such report, or it cannot be reached.
        """
        with _words("the bill cannot be read (Modal gives it to the plan Team and up)"):
            items = modal.Workspace.from_context().billing.report(
                start=start, end=end, resolution="h", tag_names=["project"]
            )
        return [
            BillLine(
                item.description,
                float(item.cost),
                {name: float(usd) for name, usd in item.cost_by_resource.items()},
                item.tags,
            )
            for item in items
        ]

    def files_of(self, clip_id: str) -> list[str]:
        """Return the names of a clip's files in the Volume."""
        with _words(f"the Volume {OUTPUTS_VOLUME} cannot be listed"):
            entries = modal.Volume.from_name(OUTPUTS_VOLUME).listdir("/", recursive=True)
        return sorted(entry.path for entry in entries if clip_id in entry.path)


def _task_info(container: str) -> Any:
    """Ask for the platform's record, on the client's own event loop; private, as the module's docstring says."""
    from modal._utils.async_utils import synchronizer
    from modal.client import _Client
    from modal_proto import api_pb2

    async def ask() -> Any:
        client = await _Client.from_env()
        return await client._stub.TaskGetInfo(api_pb2.TaskGetInfoRequest(task_id=container))

    return synchronizer.create_blocking(ask)().info


@contextmanager
def _words(problem: str) -> Iterator[None]:
    """Turn the client's errors into ours.

    Raises:
        ConfigurationError: What is asked for is not deployed, or nobody is logged in.
        UnavailableError: Modal refused or was not reached.
    """
    try:
        yield
    except (modal.exception.NotFoundError, modal.exception.AuthError) as error:
        raise ConfigurationError(f"{problem} ({type(error).__name__}: {error})") from error
    except CLIENT_ERRORS as error:
        raise UnavailableError(f"{problem} ({type(error).__name__}: {error})") from error
