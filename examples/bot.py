"""A chat bot: `!anime a cat on a roof` in, a link to the clip out.

    python examples/bot.py                    chat on standard input and output
    python examples/twitch.py mychannel       the same bot on Twitch
    python examples/discord_bot.py            the same bot on Discord

The studio asks no one who they are: who may ask, for what and how often is decided here. An order is refused, in words that
repeat nothing, when `moderation.py` finds a listed word in it, and `turns.py` bounds what each viewer may ask. Moderators
say `!pause`, `!resume`, `!skip`, `!cancel @viewer` and `!ban word`. With `--approve`, a finished clip is held until one of
them says `!approve`, or `!approve @viewer`.

Each order is written to a small file with an idempotency key before it is sent. So a bot that was restarted continues its
open orders and submits none of them twice.
"""

import argparse
import asyncio
import contextlib
import json
import os
import re
import secrets
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from moderation import SHIPPED, Blocklist, is_foreign
from turns import Limits, Turns

from anime_studio.client import (
    DEFAULT_URL,
    AsyncStudioClient,
    DeadlineExceededError,
    DeadlineUnmeetableError,
    JobTimeoutError,
    StudioError,
)
from common.schemas import ClientSignal, Job, Resolution, SignalKind

ACKNOWLEDGE_WITHIN_S = 0.7
REJECTED = "a moderator cancelled this one"
# A command may follow `/me` (IRC sends it as ACTION) or, in a reply, the name of who is answered.
_COMMAND = re.compile(
    r"(?:\x01ACTION\s+)?(?:@\S+\s+)?!(?P<word>\w+)(?:\s+(?P<rest>[^\x01]*))?\x01?$", re.IGNORECASE
)


class Bot:
    """Takes orders from chat. *say* posts a line there; *file* holds the orders without an answer yet."""

    def __init__(
        self,
        studio: AsyncStudioClient,
        say: Callable[[str], Awaitable[None]],
        file: Path,
        channel: str | None = None,
        *,
        limits: Limits | None = None,
        blocklist: Blocklist | None = None,
        deadline_s: float = 90.0,
        resolution: Resolution = Resolution.P480,
        needs_approval: bool = False,
        approve_after_s: float | None = None,
    ) -> None:
        self.studio, self.say, self.file, self.channel = studio, say, file, channel
        self.deadline_s, self.resolution = deadline_s, resolution
        self.needs_approval, self.approve_after_s = needs_approval, approve_after_s
        self.turns = Turns(limits or Limits())
        self.blocklist = blocklist or Blocklist.read(SHIPPED)
        self.bans = file.with_name(
            "bot-bans.txt"
        )  # what moderators banned, one entry a line, for the next start too
        for banned in self.bans.read_text().splitlines() if self.bans.exists() else ():
            self.blocklist.add(banned)
        self.paused, self.refused = False, 0
        self.undecided: dict[str, asyncio.Event] = {}  # orders whose clip waits for a moderator
        self.placing = asyncio.Lock()  # first come, first served: orders reach the studio in their turn
        self.lines: asyncio.Queue[str] = asyncio.Queue()
        self.speaking = asyncio.create_task(self.speak())
        self.deliveries: set[asyncio.Task[None]] = set()
        self.orders: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        for key, order in self.orders.items():
            self.turns.add(key, order["author"])
        self.serve()

    def hear(self, author: str, line: str, *, is_moderator: bool = False) -> None:
        """Take one line of chat; an order is delivered in the background."""
        command = _COMMAND.match(line.strip())
        if command is None:
            return
        word, rest = command["word"].lower(), (command["rest"] or "").strip()
        if word == "anime":
            self.answer(author, self.refusal(author, rest) or self.accept(author, rest))
        elif is_moderator and word in ("pause", "resume"):
            self.paused = word == "pause"
            self.answer(author, "orders are paused" if self.paused else "orders are open again")
        elif is_moderator and word == "ban" and rest:
            self.blocklist.add(rest)
            with self.bans.open("a") as bans:
                bans.write(f"{' '.join(rest.split())}\n")
            self.answer(author, "noted: that is refused from now on")
        elif is_moderator and word == "cancel" and rest:
            self.cancel(
                author, [key for key, order in self.orders.items() if _same_name(order["author"], rest)]
            )
        elif is_moderator and word == "approve":
            self.approve(author, rest)
        elif is_moderator and word == "skip":
            self.cancel(author, list(self.turns.at_studio)[:1])

    def refusal(self, author: str, prompt: str) -> str | None:
        """Return in words why this is not ordered, or None."""
        if not prompt:
            return "say what to draw, for example: !anime a cat on a roof"
        if self.paused:
            return "orders are paused, please ask again later"
        if self.blocklist.refuses(prompt):
            self.refused += 1
            return "that one is not for this show"
        if is_foreign(prompt):
            return "the artist understands English only"
        return self.turns.refusal(author)

    def accept(self, author: str, prompt: str) -> str | None:
        """Keep an order, and say its place if it has to wait here."""
        key = f"bot-{secrets.token_hex(16)}"
        self.orders[key] = {"author": author, "prompt": prompt, "until": time.time() + self.deadline_s}
        self.save()
        self.turns.add(key, author)
        self.serve()
        return f"you are in line, {self.turns.ahead_of(key)} ahead" if key in self.turns.waiting else None

    def serve(self) -> None:
        """Send the orders whose turn it is."""
        while (key := self.turns.next()) is not None:
            self.background(self.deliver(key))

    async def deliver(self, key: str) -> None:
        """Deliver one order, also one that the last run of the bot had begun."""
        order = self.orders[key]
        try:
            if "job_id" not in order:
                async with self.placing:
                    await self.place(key)
            if order.get("cancelled"):  # a moderator said so while it was being sent
                await self.stop(key)
            job = await self.studio.wait(order["job_id"], self.left_s(order))
            if self.needs_approval:
                await self.decision(key)
            answer = (job.clip.watch_url or job.clip.url) if job.clip else "the clip is gone"
        except (DeadlineExceededError, DeadlineUnmeetableError, JobTimeoutError):
            answer = "no clip this time, the studio is too busy"
            await self.report(ClientSignal(kind=SignalKind.FALLBACK_PLAYED, source="bot"))
        except StudioError as error:
            whose = f"ordered by {order['author']!r}, {order.get('job_id', 'no job')}"
            print(f"an order got no clip: {error} ({whose})", file=sys.stderr)  # viewers get the kind alone
            answer = f"no clip: {error.problem.title.lower()}"
        self.close(key, REJECTED if order.get("rejected") else answer)

    async def decision(self, key: str) -> None:
        """Wait until a moderator approves or cancels a finished clip, or the time for that is over; then show it."""
        order = self.orders[key]
        if not order.get("approved"):
            self.turns.remove(key)  # others may be drawn meanwhile
            self.serve()
            self.undecided[key] = asyncio.Event()
            self.answer(order["author"], "your clip is ready and waits for a moderator")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.approve_after_s):
                    await self.undecided[key].wait()
            del self.undecided[key]
        if not order.get("rejected"):
            await self.studio.show_clip(order["job_id"])

    def approve(self, moderator: str, viewer: str) -> None:
        """Let the oldest clip that waits be shown, or all of one viewer."""
        keys = [key for key in self.undecided if not viewer or _same_name(self.orders[key]["author"], viewer)]
        for key in keys if viewer else keys[:1]:
            self.orders[key]["approved"] = True
            self.save()  # before it is shown: a bot that dies now shows it at its next start
            self.undecided[key].set()
        self.answer(moderator, "approved" if keys else "no clip waits for you")

    async def place(self, key: str) -> None:
        """Submit an order and acknowledge it with its place in the queue."""
        order = self.orders[key]
        submit = self.studio.submit(
            order["prompt"],
            idempotency_key=key,
            deadline_s=self.left_s(order),
            resolution=self.resolution,
            channel=self.channel,
            hold=self.needs_approval,
            requested_by=order["author"][:64],
            source="bot",
        )
        sent = asyncio.create_task(submit)
        if not (await asyncio.wait([sent], timeout=ACKNOWLEDGE_WITHIN_S))[0]:
            self.answer(order["author"], "asking the studio…")
        job = await sent
        order["job_id"] = job.job_id
        self.save()
        eta = f", ready in about {job.progress.eta_s:.0f} s" if job.progress.eta_s else ""
        self.answer(order["author"], f"on it, {job.queue_position or 0} ahead{eta}{_news(job)}")

    def cancel(self, moderator: str, keys: list[str]) -> None:
        """End orders that wait here, and ask the studio to end the others; each viewer gets the usual answer."""
        for key in keys:
            if key in self.turns.waiting:
                self.close(key, REJECTED)
                continue
            if key in self.undecided:
                self.orders[key]["rejected"] = True
                self.save()
                self.undecided[key].set()
                continue
            self.orders[key]["cancelled"] = True
            if "job_id" in self.orders[key]:
                self.background(self.stop(key))
        self.answer(moderator, f"{len(keys)} {'order' if len(keys) == 1 else 'orders'} cancelled")

    async def stop(self, key: str) -> None:
        """Cancel an order's job; its delivery tells the viewer."""
        try:
            await self.studio.cancel(self.orders[key]["job_id"])
        except StudioError as error:
            print(f"a job could not be cancelled: {error}", file=sys.stderr)

    def close(self, key: str, answer: str) -> None:
        """Give an order its answer, and the next one its turn."""
        self.answer(self.orders.pop(key)["author"], answer)
        self.save()
        self.turns.remove(key)
        self.serve()

    def answer(self, author: str, words: str | None) -> None:
        """Post a line to one viewer, after all lines before it."""
        if words is not None:
            self.lines.put_nowait(f"@{author} {words}")

    async def speak(self) -> None:
        """Post the lines in their order."""
        while True:
            await self.say(await self.lines.get())
            self.lines.task_done()

    async def report(self, signal: ClientSignal) -> None:
        """Report to the operator; a failure here must not stop the bot."""
        try:
            await self.studio.signal(signal)
        except StudioError as error:
            print(f"the report to the operator failed: {error}", file=sys.stderr)

    async def finish(self) -> None:
        """Wait until each order has its answer and each line is posted."""
        while self.deliveries:
            await asyncio.gather(*self.deliveries)
        await self.lines.join()

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """Do *work* beside everything else."""
        task = asyncio.create_task(work)
        self.deliveries.add(task)
        task.add_done_callback(self.deliveries.discard)

    def left_s(self, order: dict[str, Any]) -> float:
        """Return the seconds within which the order is still wanted."""
        return max(1.0, float(order["until"]) - time.time())

    def save(self) -> None:
        """Write all open orders to the file in one step."""
        partial = self.file.with_suffix(".partial")
        partial.write_text(json.dumps(self.orders))
        partial.replace(self.file)


def _news(job: Job) -> str:
    """Return what the viewer should know of the clip; not what follows from the size, which the viewer did not choose."""
    return "".join(f". {note.detail}" for note in job.notes if note.code != "cropped")


def _same_name(one: str, other: str) -> bool:
    return one.casefold() == other.lstrip("@").casefold()


def options(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Return what the command line says; *parser* may have arguments of its own."""
    defaults = Limits()
    parser.add_argument(
        "--url", default=os.environ.get("ANIME_STUDIO_URL", DEFAULT_URL), help="address of the studio"
    )
    parser.add_argument(
        "--overlay", default=os.environ.get("ANIME_STUDIO_CHANNEL"), help="the overlay's channel"
    )
    parser.add_argument(
        "--blocklist", type=Path, action="append", default=[], help="a file of words of your own"
    )
    parser.add_argument(
        "--cooldown-s", type=float, default=defaults.cooldown_s, help="between orders of a viewer"
    )
    parser.add_argument("--per-viewer", type=int, default=defaults.per_viewer, help="open orders of a viewer")
    parser.add_argument("--open-orders", type=int, default=defaults.open_orders, help="open orders of all")
    parser.add_argument("--deadline-s", type=float, default=90.0, help="within which a clip is still wanted")
    parser.add_argument(
        "--resolution",
        choices=[size.value for size in Resolution],
        default=Resolution.P480.value,
        help="size of the clips; GET /recipe lists those that the studio offers",
    )
    parser.add_argument(
        "--approve", action="store_true", help="hold each clip until a moderator says !approve"
    )
    parser.add_argument(
        "--approve-after-s", type=float, help="show a clip that nobody decided about after so long"
    )
    return parser.parse_args()


def bot_of(
    given: argparse.Namespace, studio: AsyncStudioClient, say: Callable[[str], Awaitable[None]]
) -> Bot:
    """Return the bot that the command line describes."""
    limits = Limits(cooldown_s=given.cooldown_s, per_viewer=given.per_viewer, open_orders=given.open_orders)
    return Bot(
        studio,
        say,
        Path("bot-orders.json"),
        given.overlay,
        limits=limits,
        blocklist=Blocklist.read(SHIPPED, *given.blocklist),
        deadline_s=given.deadline_s,
        resolution=Resolution(given.resolution),
        needs_approval=given.approve or given.approve_after_s is not None,
        approve_after_s=given.approve_after_s,
    )


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run the bot until it ends; Ctrl-C stops it with one line."""
    try:
        asyncio.run(work)
    except KeyboardInterrupt:
        print("stopped; open orders go on at the next start", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        sys.exit(f"{error.filename or 'the bot'}: {error.strerror or error}")


async def main() -> None:
    """Chat on standard input until it ends, then deliver the open orders."""
    given = options(
        argparse.ArgumentParser(description="A chat bot on standard input and output; you are a moderator.")
    )

    async def say(line: str) -> None:
        print(line, flush=True)

    async with AsyncStudioClient(given.url) as studio:
        bot = bot_of(given, studio, say)
        while line := await asyncio.to_thread(sys.stdin.readline):
            bot.hear("you", line, is_moderator=True)
        await bot.finish()


if __name__ == "__main__":
    run(main())
