"""The rows that ask containers on Modal: what is installed, the card, forced starts, and the rows on real weights."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from anime_studio.core.show_cost import RESTORE_S
from anime_studio.on_modal.images import generator_constraints
from anime_studio.on_modal.settings import ModalSettings
from anime_studio.prove.account import Account
from anime_studio.prove.memory import MemoryFile, Start
from anime_studio.prove.prompts import PROMPTS
from anime_studio.prove.rows import Found, Purse, Say
from anime_studio.prove.versions import compare
from common.prove import ContainerReport, Verdict
from common.schemas import StartKind

BAD_RESTORES: Final = 0.2
"""The share of restores that may crash or be recovered before `SNAPSHOT=cpu` is the better choice."""
GOAL_S: Final = 2.0
_TRIES: Final = 5
"""For a container that was stopped to be gone, so that the next call starts one."""
_GONE_S: Final = 60.0

_OWN_WORDS: Final = {
    StartKind.RESTORED.value: "restore",
    StartKind.COLD.value: "plain",
    StartKind.RECOVERED.value: "recovered",
}


class ContainerRows:
    """Checks rows that the deployed containers answer.

    Args:
        settings: Of the shell, with which the app should be deployed.
        account: Where they run.
        folder: Of the report and its pictures.
        kept: The starts so far.
        purse: What starts are paid from.
        say: Shows a line to people.
        prompt: What is drawn.
    """

    def __init__(
        self,
        settings: ModalSettings,
        account: Account,
        folder: Path,
        kept: MemoryFile,
        purse: Purse,
        say: Say,
        *,
        prompt: str = PROMPTS[0],
    ) -> None:
        self._settings, self._account, self._folder = settings, account, folder
        self._kept, self._purse, self._say = kept, purse, say
        self._prompt = prompt
        self._report: ContainerReport | None = None

    def versions(self) -> Found:
        """Compare what is installed in the container with the pinned list of this clone."""
        return compare(self._seen().packages, generator_constraints(self._settings))

    def device(self) -> Found:
        """Name card, driver, the fast paths taken and refused, and whether the deployed settings are this shell's."""
        seen = self._seen()
        detail = (
            f"{seen.device}; kernel {seen.kernel}; {seen.cores} cores; torch {seen.packages.get('torch', '?')}; "
            f"{seen.resident_gib:.1f} GiB at most; fast paths taken: {', '.join(seen.paths) or 'none'}; "
            f"refused: {', '.join(seen.refused) or 'none'}"
        )
        if seen.error:
            return Found(Verdict.FALLS_SHORT, f"{detail}; it cannot draw: {seen.error}")
        if other := _differences(self._settings.as_environment(), seen.settings):
            return Found(
                Verdict.FALLS_SHORT,
                f"{detail}; deployed with other settings than this shell's: {', '.join(other)}; deploy again, or set "
                "what was deployed",
            )
        return Found(Verdict.FALLS_SHORT if seen.refused else Verdict.HOLDS, detail)

    def weights(self) -> Found:
        """Hash every byte in a container beside, and see from what the deployed one loaded."""
        found = self.on_card("weights")
        seen = self._seen()
        detail = (
            f"{found.detail}; the deployed container: commit {seen.revision}, loaded from {seen.loaded_from}"
        )
        if found.verdict is Verdict.HOLDS and not seen.prepared and self._settings.uses_gpu:
            return Found(
                Verdict.FALLS_SHORT,
                f"{detail}, which is not prepared; deploy with another ANIME_STUDIO_RELEASE",
            )
        return Found(found.verdict, detail)

    def on_card(self, row: str) -> Found:
        """Check a row of `engine_rows` in a container on the deployment's own card."""
        answer = self._account.check(row, self._prompt)
        picture = None
        if answer["picture"] is not None:
            picture = f"{row}.png"
            (self._folder / picture).write_bytes(answer["picture"])
        return Found(Verdict(answer["verdict"]), answer["detail"], picture=picture)

    def starts(self, wanted: int) -> Found:
        """Force *wanted* starts, one after another, and say which snapshot suits; all anew if there are so many already."""
        if len(self._kept.memory.starts) >= wanted:
            self._kept.keep(starts=(), crashes=0)
        round_trip_s = self._round_trip_s()
        while len(self._kept.memory.starts) < wanted:
            memory = self._kept.memory
            if reason := self._purse.too_little_for(self._start_usd):
                return self._verdict(f"{len(memory.starts)} of {wanted} starts; {reason}", unfinished=True)
            begun_at, begun = datetime.now(UTC), time.monotonic()
            try:
                start = self._start(round_trip_s)
            finally:
                self._purse.spend((time.monotonic() - begun) * self._settings.machine.usd_per_s())
            crashes = self._account.errors_since(begun_at) or 0
            self._kept.keep(starts=(*memory.starts, start), crashes=memory.crashes + crashes)
            self._say(f"start {len(memory.starts) + 1} of {wanted}: {start.kind}, {start.wall_s:.1f} s")
        return self._verdict(f"{wanted} starts")

    def plain_start(self) -> Found:
        """Start a container without a snapshot, in seconds and dollars."""
        for _ in range(_TRIES):
            begun = time.monotonic()
            seen = self._account.plain_start()
            took_s = time.monotonic() - begun
            if seen.first:
                break
            self._end(seen.container)
        else:
            return Found(
                Verdict.NOT_CHECKED,
                "a container was always there already; run: anime-studio prove --row plain",
            )
        usd = took_s * self._settings.machine.usd_per_s()
        detail = f"{took_s:.1f} s and ${usd:.4f}, {seen.start_s:.1f} s of it our own code"
        if seen.error:
            return Found(Verdict.FALLS_SHORT, f"{detail}; it cannot draw: {seen.error}")
        return Found(Verdict.HOLDS, f"{detail}; the rest is the platform, its image and imports")

    @property
    def _start_usd(self) -> float:
        return 2 * RESTORE_S * self._settings.machine.usd_per_s()

    def _seen(self) -> ContainerReport:
        if self._report is None:
            self._report = self._account.report()
        return self._report

    def _round_trip_s(self) -> float:
        """Return the seconds of a call to a container that is warm."""
        self._account.report()
        begun = time.monotonic()
        self._account.report()
        return time.monotonic() - begun

    def _start(self, round_trip_s: float) -> Start:
        for _ in range(_TRIES):
            self._end(self._account.report().container)
            begun = time.monotonic()
            seen = self._account.report()
            wall_s = time.monotonic() - begun
            if seen.first:
                record = self._account.record_of(seen.container)
                recovered = seen.start_kind == StartKind.RECOVERED
                recorded = record is not None and bool(record.kind)
                kind = (
                    record.kind
                    if record is not None and record.kind
                    else _OWN_WORDS.get(seen.start_kind, "plain")
                )
                return Start(
                    kind="recovered" if recovered else kind,
                    recorded=recorded,
                    wall_s=max(0.0, wall_s - round_trip_s),
                    own_s=seen.start_s,
                    queued_s=None if record is None else record.queued_s,
                )
        raise RuntimeError(
            "a warm container always answered; with ANIME_STUDIO_MIN_CONTAINERS or _BUFFER_CONTAINERS above 0 no start "
            "can be forced"
        )

    def _end(self, container: str) -> None:
        self._account.stop(container)
        give_up_at = time.monotonic() + _GONE_S
        while time.monotonic() < give_up_at:
            record = self._account.record_of(container)
            if record is None or record.ended:
                return
            time.sleep(0.5)

    def _verdict(self, what: str, *, unfinished: bool = False) -> Found:
        memory = self._kept.memory
        seen = partial(Found, table=_table(memory.starts), starts_s=_seconds(memory.starts))
        mode = self._settings.snapshot
        restored = [each for each in memory.starts if each.kind == "restore"]
        # A restore that crashed is followed by a start without one, and may be counted as an error too.
        after_first = _after_the_first_restore(memory.starts)
        crashed = max(memory.crashes, sum(each.kind == "plain" for each in after_first))
        bad = crashed + sum(each.kind == "recovered" for each in memory.starts)
        tried = len(restored) + bad
        record = (
            "by the platform's record"
            if all(each.recorded for each in memory.starts)
            else "by the container's own word"
        )
        detail = f"{what}, kinds {record}; {tried} restores, {bad} of them crashed or were recovered"
        if unfinished:
            return seen(Verdict.NOT_CHECKED, detail)
        if mode == "off":
            return seen(Verdict.HOLDS, f"{what}; deployed with SNAPSHOT=off, so nothing is restored")
        if not tried:
            return seen(
                Verdict.NOT_CHECKED,
                f"{detail}; a deployment makes its snapshots in its first starts: run again with more --starts",
            )
        if bad > BAD_RESTORES * tried:
            better = "cpu" if mode == "gpu" else "off"
            return seen(
                Verdict.FALLS_SHORT,
                f"{detail}: deploy with ANIME_STUDIO_SNAPSHOT={better} (SNAPSHOT={better})",
            )
        median_s = nearest_rank([each.wall_s for each in restored], 50)
        goal = "within" if median_s <= GOAL_S else "above"
        return seen(
            Verdict.HOLDS,
            f"{detail}; median {median_s:.1f} s, {goal} the goal of {GOAL_S:g} s: SNAPSHOT={mode}",
        )


def nearest_rank(values: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile of one or more values."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def _table(starts: Iterable[Start]) -> tuple[tuple[str, ...], ...]:
    kinds: dict[str, list[Start]] = {}
    for start in starts:
        kinds.setdefault(start.kind, []).append(start)
    return (
        (
            "kind",
            "starts",
            "p50",
            "p95",
            "of it our own code (p50)",
            "of it the platform (p50)",
            "before it began (p50)",
        ),
        *(
            (
                kind,
                str(len(some)),
                f"{nearest_rank([each.wall_s for each in some], 50):.1f} s",
                f"{nearest_rank([each.wall_s for each in some], 95):.1f} s",
                f"{nearest_rank([each.own_s for each in some], 50):.1f} s",
                f"{nearest_rank([max(0.0, each.wall_s - each.own_s) for each in some], 50):.1f} s",
                _queued(some),
            )
            for kind, some in kinds.items()
        ),
    )


def _seconds(starts: Iterable[Start]) -> dict[str, tuple[float, ...]]:
    kinds: dict[str, tuple[float, ...]] = {}
    for start in starts:
        kinds[start.kind] = (*kinds.get(start.kind, ()), round(start.wall_s, 3))
    return kinds


def _queued(starts: Iterable[Start]) -> str:
    known = [each.queued_s for each in starts if each.queued_s is not None]
    return f"{nearest_rank(known, 50):.1f} s" if known else "-"


def _after_the_first_restore(starts: Sequence[Start]) -> Sequence[Start]:
    first = next((index for index, each in enumerate(starts) if each.kind == "restore"), len(starts))
    return starts[first + 1 :]


def _differences(wanted: Mapping[str, str], deployed: Mapping[str, str]) -> list[str]:
    return [
        f"{name} is {deployed.get(name, 'absent')}, here {value}"
        for name, value in wanted.items()
        if deployed.get(name) != value
    ]
