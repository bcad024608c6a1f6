"""The bot on Twitch chat, which speaks IRC (RFC 1459): `TWITCH_TOKEN=… python examples/twitch.py mychannel`.

    TWITCH_NICK    the bot's account, by default the channel's own
    TWITCH_TOKEN   a chat token with chat:read and chat:edit

The broadcaster and moderators, as Twitch's tags name them, may command the bot. Twitch allows an ordinary account 20 lines
in 30 s: lines above that wait.
"""

import argparse
import asyncio
import os
import re
import ssl
import sys
import time
from collections import deque

from bot import Bot, bot_of, options, run

from anime_studio.client import AsyncStudioClient

HOST, PORT = "irc.chat.twitch.tv", 6697
LONGEST_LINE_CHARS = 450
"""Twitch cuts at 500; a clip's link has about 180."""
LONGEST_PAUSE_S = 30.0
SAID = "said"
"""What the PING after a line holds, and the PONG to it."""
LINES, LINES_WITHIN_S = 20, 30.0
REFUSALS = ("Login authentication failed", "Improperly formatted auth", "Login unsuccessful", "Invalid NICK")
"""Twitch's words in a NOTICE before it closes the connection."""

_PRIVMSG = re.compile(r"(?:@(?P<tags>\S+) )?:(?P<author>[^! ]+)\S* PRIVMSG #\S+ :(?P<text>.*)")
_NOTICE = re.compile(r"(?:@\S+ )?\S+ NOTICE \S+ :(?P<text>.*)")


class TwitchChat:
    """One channel's chat; reconnects when the connection drops or falls silent."""

    silent_s = 30.0
    """After so long without a line the server is asked for one, and given half of that again to answer."""
    pause_s = 1.0
    """Before the first try to connect again; each further pause is twice as long, until a log-in succeeds."""
    sleep = staticmethod(asyncio.sleep)

    def __init__(
        self, channel: str, nick: str, token: str, host: str = HOST, port: int = PORT, *, tls: bool = True
    ) -> None:
        self.channel, self.nick = channel.lower().lstrip("#"), nick.lower()
        self.token = token if token.startswith("oauth:") else f"oauth:{token}"
        self.host, self.port = host, port
        self.tls = ssl.create_default_context() if tls else None
        self.joined = asyncio.Event()
        self.writer: asyncio.StreamWriter | None = None
        self.arrived, self.news = False, asyncio.Event()  # whether the last line did; that this is known now
        self.said_at: deque[float] = deque(maxlen=LINES)

    async def say(self, line: str) -> None:
        """Post a line until the server has it; without a connection, wait for one.

        A connection may end with the line on its way. Twitch does not repeat a bot's own lines, so a PING follows each: a
        server takes its lines in order, so the PONG says that the line before has arrived.
        """
        one_line = re.sub(r"\s+", " ", line)[:LONGEST_LINE_CHARS]
        while True:
            await self.joined.wait()
            if len(self.said_at) == LINES:
                await asyncio.sleep(self.said_at[0] + LINES_WITHIN_S - time.monotonic())
            if not self.joined.is_set():
                continue  # the connection ended during the pause
            self.arrived = False
            self.news.clear()
            self.said_at.append(time.monotonic())
            try:
                await self.send(f"PRIVMSG #{self.channel} :{one_line}\r\nPING :{SAID}")
                await self.news.wait()
            except OSError:
                self.joined.clear()  # `listen` reconnects
            if self.arrived:
                return

    async def listen(self, bot: Bot) -> None:
        """Give the bot every line of chat, until cancelled."""
        pause_s = self.pause_s
        while True:
            try:
                await self.connect()
                while line := await self.next_line():
                    await self.handle(line.decode(errors="replace").rstrip("\r\n"), bot)
                    if self.joined.is_set():
                        pause_s = self.pause_s  # a log-in succeeded: the next pause is short again
                print("chat: the server closed the connection", file=sys.stderr)
            except (OSError, TimeoutError) as error:
                print(f"chat: {error or 'the server fell silent'}", file=sys.stderr)
            finally:
                self.disconnect()
            await self.sleep(pause_s)
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)

    async def connect(self) -> None:
        """Open the connection and log in."""
        async with asyncio.timeout(self.silent_s):
            self.reader, self.writer = await asyncio.open_connection(self.host, self.port, ssl=self.tls)
        login = (
            "CAP REQ :twitch.tv/tags",
            f"PASS {self.token}",
            f"NICK {self.nick}",
            f"JOIN #{self.channel}",
        )
        for command in login:
            await self.send(command)

    async def next_line(self) -> bytes:
        """Return the next line, empty at the end of the connection; a silent server is asked for a sign of life."""
        line = asyncio.create_task(self.reader.readline())
        if not (await asyncio.wait([line], timeout=self.silent_s))[0]:
            await self.send("PING :are you there")
        return await asyncio.wait_for(line, self.silent_s / 2)

    async def handle(self, line: str, bot: Bot) -> None:
        """Answer the server's lines; give a viewer's line to the bot."""
        if line.startswith("PING"):
            await self.send(line.replace("PING", "PONG", 1))
        elif re.match(rf"(?:@\S+ )?:\S+ PONG .*{SAID}$", line):
            self.arrived = True
            self.news.set()
        elif re.match(r"(?:@\S+ )?:\S+ 366 ", line):  # the end of the names: the channel is joined
            self.joined.set()
        elif notice := _NOTICE.match(line):
            print(f"chat: Twitch says: {notice['text']}", file=sys.stderr)
            if notice["text"].startswith(REFUSALS):
                sys.exit(
                    "Twitch refused the token: make one with chat:read and chat:edit, and set TWITCH_TOKEN"
                )
        elif message := _PRIVMSG.match(line):
            bot.hear(message["author"], message["text"], is_moderator=_commands(message["tags"] or ""))

    def disconnect(self) -> None:
        """Close the connection, if there is one."""
        self.joined.clear()
        self.news.set()
        if self.writer is not None:
            self.writer.close()

    async def send(self, command: str) -> None:
        """Send one line."""
        if self.writer is None:
            raise ConnectionError("not connected")
        self.writer.write(command.encode() + b"\r\n")
        await self.writer.drain()


def _commands(tags: str) -> bool:
    """Return whether the line's tags name a moderator or the broadcaster (dev.twitch.tv, "IRC tags")."""
    named = dict(tag.partition("=")[::2] for tag in tags.split(";"))
    badges = {badge.partition("/")[0] for badge in named.get("badges", "").split(",")}
    return named.get("mod") == "1" or bool(badges & {"broadcaster", "moderator"})


async def main() -> None:
    """Run the bot on the channel named on the command line."""
    parser = argparse.ArgumentParser(description="The bot on Twitch chat; TWITCH_TOKEN holds a chat token.")
    parser.add_argument("channel", help="the Twitch channel")
    given = options(parser)
    token = os.environ.get("TWITCH_TOKEN", "").strip()
    if not token:
        parser.error("set TWITCH_TOKEN: a chat token with chat:read and chat:edit")
    chat = TwitchChat(given.channel, os.environ.get("TWITCH_NICK") or given.channel.lstrip("#"), token)
    async with AsyncStudioClient(given.url) as studio:
        await chat.listen(bot_of(given, studio, chat.say))


if __name__ == "__main__":
    run(main())
