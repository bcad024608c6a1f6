"""The rows of `prove` on a Modal account, in their order, each with its price; no torch is needed to check them.

The order matters: the first clip is of a fresh deployment, and the last row waits until a link of the first has expired.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Final, Self

from anime_studio import __version__
from anime_studio.core.projection import CARDS, project
from anime_studio.core.recipes import RECIPES, get_recipe
from anime_studio.core.show_cost import PLAIN_START_S, RESTORE_S
from anime_studio.on_modal.settings import ModalSettings
from anime_studio.prove.account import Account
from anime_studio.prove.container_rows import ContainerRows
from anime_studio.prove.http_rows import HttpRows
from anime_studio.prove.memory import MemoryFile
from anime_studio.prove.money_rows import bill, prices
from anime_studio.prove.prompts import PROMPTS
from anime_studio.prove.rows import Found, Purse, Row, Say
from common.prove import Place, ProofReport

BILL: Final = "bill"
"""Checked when its hour is over, and only when it is asked for."""
_UNKNOWN_CLIP_S: Final = 5.0
"""For a machine without a data sheet; our own tiny checkpoints take less."""
_SLOWDOWN_WITHOUT_FAST_PATHS: Final = 3.0
"""Chosen: of the plain paths' clip, in the price alone."""


def wanted_report(settings: ModalSettings, url: str, prompts: Sequence[str] = ()) -> ProofReport:
    """Return what is proved: rows of an earlier run count only if all of this is the same."""
    deciding = settings.as_environment()
    del deciding["ANIME_STUDIO_RELEASE"]  # it only makes new snapshots
    return ProofReport(
        version=__version__,
        place=Place.MODAL,
        recipe=settings.recipe,
        device=settings.gpu or "none",
        settings={"url": url, **deciding},
        prompts=tuple(prompts),
    )


class ModalRows(AbstractContextManager["ModalRows"]):
    """All rows of one deployment; a row's own helpers are made when it is first needed.

    Args:
        settings: Of the shell.
        account: Where the app is deployed.
        url: Of its HTTP app.
        folder: Of the report.
        kept: What the rows share.
        purse: What they are paid from.
        say: Shows a line to people.
        starts: How many starts to force.
        prompts: Of the jobs in turn; the pictures are of the first.
    """

    def __init__(
        self,
        settings: ModalSettings,
        account: Account,
        url: str,
        folder: Path,
        kept: MemoryFile,
        purse: Purse,
        say: Say,
        *,
        starts: int,
        prompts: Sequence[str] = PROMPTS,
    ) -> None:
        self._settings, self._account, self._url = settings, account, url
        self._containers = ContainerRows(settings, account, folder, kept, purse, say, prompt=prompts[0])
        self._prompts = prompts
        self._kept, self._purse, self._say, self._starts = kept, purse, say, starts
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def rows(self) -> list[Row]:
        """Return the rows, in their order."""
        clip_s, tail_s = self._clip_s, float(self._settings.scaledown_window_s)
        containers, on_card = self._containers, self._containers.on_card
        return [
            Row("prices", partial(prices, self._account, self._settings.machine)),
            self._paid("first", self._on_http(HttpRows.first), PLAIN_START_S + clip_s),
            self._paid("links", self._on_http(HttpRows.links), clip_s),
            self._paid("versions", containers.versions, RESTORE_S),
            self._paid("device", containers.device, RESTORE_S + tail_s),
            self._paid("three", self._on_http(HttpRows.three), RESTORE_S + 3 * clip_s + tail_s),
            self._paid("cancel", self._on_http(HttpRows.cancel), RESTORE_S + clip_s),
            self._paid("preempt", self._on_http(HttpRows.preempt), RESTORE_S + 2 * clip_s + tail_s),
            Row("starts", self._force_starts, self._starts_s, self._settings.machine.usd_per_s(), True),
            self._paid("plain", containers.plain_start, PLAIN_START_S),
            self._paid("weights", containers.weights, PLAIN_START_S + clip_s),
            self._paid("fast", partial(on_card, "fast"), self._fast_s),
            self._paid("samplers", partial(on_card, "samplers"), self._samplers_s),
            self._paid("decoders", partial(on_card, "decoders"), self._decoders_s + tail_s),
            Row("spend", self._on_http(HttpRows.spend)),
            Row("expired", self._on_http(HttpRows.expired)),
            Row(BILL, self._bill, only_when_asked=True),
        ]

    @property
    def expected_usd(self) -> float:
        """What all rows should cost."""
        return sum(row.expected_usd for row in self.rows())

    @cached_property
    def _http(self) -> HttpRows:
        rows = HttpRows(
            self._url,
            self._account,
            self._kept,
            self._say,
            base_url=self._settings.base_url,
            prompts=self._prompts,
        )
        self._open.callback(rows.close)
        return rows

    def _on_http(self, check: Callable[[HttpRows], Found]) -> Callable[[], Found]:
        return lambda: check(self._http)

    def _force_starts(self) -> Found:
        return self._containers.starts(self._starts)

    def _bill(self) -> Found:
        memory, spent_usd = self._kept.memory, self._purse.spent_usd
        return bill(self._account, memory, self._settings.machine, spent_usd, datetime.now(UTC))

    def _paid(self, name: str, check: Callable[[], Found], expected_s: float) -> Row:
        settings = self._settings
        text_usd_per_s = settings.text_machine.usd_per_s() if settings.text == "cpu" else 0.0
        return Row(name, check, expected_s, settings.machine.usd_per_s() + text_usd_per_s)

    @property
    def _clip_s(self) -> float:
        recipe, machine = get_recipe(self._settings.recipe), self._settings.machine
        if recipe.repo_id is None or machine.gpu_type not in CARDS:
            return _UNKNOWN_CLIP_S
        return project(recipe, machine, decoder=self._settings.decoder).total_s

    @property
    def _starts_s(self) -> float:
        """The first two starts make snapshots, as a plain start and more; the others restore one."""
        return 2 * PLAIN_START_S + self._starts * 2 * RESTORE_S

    @property
    def _fast_s(self) -> float:
        return 2 * (PLAIN_START_S + self._clip_s) + _SLOWDOWN_WITHOUT_FAST_PATHS * self._clip_s

    @property
    def _samplers_s(self) -> float:
        mine = get_recipe(self._settings.recipe).checkpoint_name
        others = sum(recipe.checkpoint_name == mine for recipe in RECIPES.values()) - 1
        return others * (PLAIN_START_S + self._clip_s)

    @property
    def _decoders_s(self) -> float:
        others = len(get_recipe(self._settings.recipe).decoders) - 1
        return others * (PLAIN_START_S + self._clip_s)
