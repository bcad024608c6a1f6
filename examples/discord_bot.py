"""The bot on Discord: `/anime a cat on a roof` in, the clip as a file out, so no link can expire.

    pip install discord.py
    DISCORD_TOKEN=… python examples/discord_bot.py

The same moderation, bounds and fair turns as in `bot.py`. There is no approval here, and no command for moderators.
The answer to a command is one message, which shows the progress and then holds the clip. The bot needs the scopes `bot`
and `applications.commands`, and no privileged intent.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import discord
from bot import options, run
from discord import app_commands
from moderation import SHIPPED, Blocklist, is_foreign
from turns import Limits, Turns

from anime_studio.client import (
    AsyncStudioClient,
    DeadlineExceededError,
    DeadlineUnmeetableError,
    JobTimeoutError,
    StudioError,
)
from common.schemas import Job, Resolution

EDIT_EVERY_S = 2.0
"""Discord allows five edits of a message in five seconds."""


class Orders:
    """What the command does."""

    def __init__(
        self,
        studio: AsyncStudioClient,
        limits: Limits,
        blocklist: Blocklist,
        channel: str | None,
        deadline_s: float,
        resolution: Resolution = Resolution.P480,
    ) -> None:
        self.studio, self.blocklist, self.channel = studio, blocklist, channel
        self.deadline_s, self.resolution = deadline_s, resolution
        self.turns = Turns(limits)
        # Orders without an answer yet; each event is set when the order's turn has come.
        self.begun: dict[str, asyncio.Event] = {}

    async def anime(self, interaction: discord.Interaction, prompt: str) -> None:
        """Answer one `/anime`: refuse it to its author alone, or show progress and then the clip."""
        viewer, key = str(interaction.user.id), f"discord-{interaction.id}"
        if words := self.refusal(viewer, prompt.strip()):
            await interaction.response.send_message(words, ephemeral=True)
            return
        self.turns.add(key, viewer)
        self.begun[key] = asyncio.Event()
        self.serve()
        try:
            await interaction.response.defer(thinking=True)
            await self.deliver(interaction, prompt, key)
        except discord.HTTPException as error:  # the channel is gone, or Discord is down
            print(f"Discord took no answer: {error}", file=sys.stderr)
        finally:
            self.turns.remove(key)
            del self.begun[key]
            self.serve()

    def serve(self) -> None:
        """Begin the orders whose turn it is."""
        while (key := self.turns.next()) is not None:
            self.begun[key].set()

    async def deliver(self, interaction: discord.Interaction, prompt: str, key: str) -> None:
        """Order the clip and put it into the answer, or words that say why there is none."""
        until = time.monotonic() + self.deadline_s
        try:
            if not self.begun[key].is_set():
                words = f"you are in line, {self.turns.ahead_of(key)} ahead"
                await interaction.edit_original_response(content=words)
                async with asyncio.timeout(self.deadline_s):
                    await self.begun[key].wait()
            left_s = max(1.0, until - time.monotonic())
            job = await self.studio.submit(
                prompt,
                idempotency_key=key,
                deadline_s=left_s,
                resolution=self.resolution,
                channel=self.channel,
                requested_by=interaction.user.display_name[:64],
                source="discord",
            )
            await self.studio.wait(job.job_id, left_s, self.shown_in(interaction))
            with tempfile.TemporaryDirectory() as folder:
                clip = await self.studio.download(job.job_id, Path(folder) / "clip.mp4")
                await interaction.edit_original_response(content=None, attachments=[discord.File(clip)])
        except (TimeoutError, DeadlineExceededError, DeadlineUnmeetableError, JobTimeoutError):
            await interaction.edit_original_response(content="no clip this time, the studio is too busy")
        except StudioError as error:
            whose = f"ordered by {interaction.user.display_name!r}"
            print(f"an order got no clip: {error} ({whose})", file=sys.stderr)
            await interaction.edit_original_response(content=f"no clip: {error.problem.title.lower()}")

    def refusal(self, viewer: str, prompt: str) -> str | None:
        """Return in words why this is not ordered, or None."""
        if self.blocklist.refuses(prompt):
            return "that one is not for this show"
        if is_foreign(prompt):
            return "the artist understands English only"
        return self.turns.refusal(viewer)

    def shown_in(self, interaction: discord.Interaction) -> Callable[[Job], None]:
        """Return a function that shows a job's progress in the answer, not too often."""
        shown_at, edits = 0.0, set[asyncio.Task[discord.InteractionMessage]]()

        def note_end(task: asyncio.Task[discord.InteractionMessage]) -> None:
            edits.discard(task)
            if not task.cancelled() and (
                error := task.exception()
            ):  # the next edit, or the clip, may come through
                print(f"Discord took no progress: {error}", file=sys.stderr)

        def show(job: Job) -> None:
            nonlocal shown_at
            if job.state.final or time.monotonic() - shown_at < EDIT_EVERY_S:
                return
            shown_at = time.monotonic()
            edit = interaction.edit_original_response(content=f"{job.state}, {job.progress.fraction:.0%}")
            edits.add(task := asyncio.create_task(edit))
            task.add_done_callback(note_end)

        return show


async def main() -> None:
    """Log in, register the command and answer until stopped."""
    parser = argparse.ArgumentParser(description="The bot on Discord; DISCORD_TOKEN holds the bot's token.")
    given = options(parser)
    token = os.environ.get("DISCORD_TOKEN", "").strip()
    if not token:
        parser.error("set DISCORD_TOKEN: the token of a bot from discord.com/developers")
    if given.approve or given.approve_after_s is not None:
        parser.error("on Discord no clip waits for approval: leave --approve out, or take orders on Twitch")
    client = discord.Client(intents=discord.Intents.none(), allowed_mentions=discord.AllowedMentions.none())
    commands = app_commands.CommandTree(client)
    async with AsyncStudioClient(given.url) as studio, client:
        limits = Limits(given.cooldown_s, given.per_viewer, given.open_orders)
        blocklist = Blocklist.read(SHIPPED, *given.blocklist)
        size = Resolution(given.resolution)
        orders = Orders(studio, limits, blocklist, given.overlay, given.deadline_s, size)

        @commands.command(description="Draw an anime clip")
        @app_commands.describe(prompt="what to draw, in English")
        async def anime(interaction: discord.Interaction, prompt: app_commands.Range[str, 1, 500]) -> None:
            await orders.anime(interaction, prompt)

        client.setup_hook = commands.sync  # type: ignore[method-assign]
        try:
            await client.start(token)
        except discord.LoginFailure:
            parser.error("Discord refused the token: copy it again from discord.com/developers")


if __name__ == "__main__":
    run(main())
