"""A chat bot: `!anime a cat on a roof` in, a link to the clip out.

    python examples/bot.py                    chat on standard input and output
    python examples/twitch.py mychannel       the same bot on Twitch

An order is in a small file before it is sent, under a key that makes sending it twice safe: a bot
that was restarted goes on where it was, and orders nothing again.
"""

import asyncio
import json
import os
import secrets
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from anime_studio.client import (
    DEFAULT_URL,
    AsyncStudioClient,
    DeadlineExceededError,
    DeadlineUnmeetableError,
    JobTimeoutError,
    StudioError,
)
from common.schemas import ClientSignal, SignalKind

COMMAND = "!anime "
ACKNOWLEDGE_WITHIN_S = 0.7


class Bot:
    """Takes orders from chat; *say* posts a line there, *file* holds what is not yet delivered."""

    deadline_s = 90.0
    fallback = "no clip this time, the studio is too busy"

    def __init__(
        self,
        studio: AsyncStudioClient,
        say: Callable[[str], Awaitable[None]],
        file: Path,
        channel: str | None = None,
    ) -> None:
        self.studio, self.say, self.file, self.channel = studio, say, file, channel
        self.orders: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        self.deliveries = {asyncio.create_task(self.deliver(key)) for key in self.orders}

    def hear(self, author: str, line: str) -> None:
        """Take one line of chat; an order is seen through in the background."""
        if line.startswith(COMMAND):
            key, until = f"bot-{secrets.token_hex(16)}", time.time() + self.deadline_s
            self.orders[key] = {"author": author, "prompt": line.removeprefix(COMMAND), "until": until}
            self.save()
            self.deliveries.add(asyncio.create_task(self.deliver(key)))

    async def deliver(self, key: str) -> None:
        """See one order through, from wherever the last run of the bot left it."""
        order = self.orders[key]
        left_s = max(1.0, order["until"] - time.time())
        try:
            if "job_id" not in order:
                await self.place(key, left_s)
            job = await self.studio.wait(order["job_id"], left_s)
            answer = job.clip.url if job.clip else "the clip is gone"
        except (DeadlineExceededError, DeadlineUnmeetableError, JobTimeoutError):
            answer = self.fallback
            await self.tell_operator(ClientSignal(kind=SignalKind.FALLBACK_PLAYED, source="bot"))
        except StudioError as error:
            answer = f"no clip: {error.problem.title.lower()}"
        await self.say(f"@{order['author']} {answer}")
        del self.orders[key]
        self.save()

    async def place(self, key: str, left_s: float) -> None:
        """Send an order and acknowledge it with its place in the queue."""
        order = self.orders[key]
        submit = self.studio.submit(
            order["prompt"], idempotency_key=key, deadline_s=left_s, channel=self.channel, source="bot"
        )
        sent = asyncio.create_task(submit)
        if not (await asyncio.wait([sent], timeout=ACKNOWLEDGE_WITHIN_S))[0]:
            await self.say(f"@{order['author']} asking the studio…")
        job = await sent
        order["job_id"] = job.job_id
        self.save()
        eta = f", ready in about {job.progress.eta_s:.0f} s" if job.progress.eta_s else ""
        await self.say(f"@{order['author']} on it, {job.queue_position or 0} ahead{eta}")

    async def tell_operator(self, signal: ClientSignal) -> None:
        """Show up in the operator's view; the show goes on if that fails."""
        try:
            await self.studio.signal(signal)
        except StudioError as error:
            print(f"the operator was not told: {error}", file=sys.stderr)

    def save(self) -> None:
        """Write all open orders down, whole or not at all."""
        partial = self.file.with_suffix(".partial")
        partial.write_text(json.dumps(self.orders))
        partial.replace(self.file)


async def main() -> None:
    """Chat on standard input until it ends, then see the open orders through."""

    async def say(line: str) -> None:
        print(line, flush=True)

    async with AsyncStudioClient(os.environ.get("ANIME_STUDIO_URL", DEFAULT_URL)) as studio:
        bot = Bot(studio, say, Path("bot-orders.json"), os.environ.get("ANIME_STUDIO_CHANNEL"))
        while line := await asyncio.to_thread(sys.stdin.readline):
            bot.hear("you", line.strip())
        await asyncio.gather(*bot.deliveries)


if __name__ == "__main__":
    asyncio.run(main())
