"""The bot on Twitch chat, which speaks IRC (RFC 1459): `TWITCH_TOKEN=oauth:… python examples/twitch.py mychannel`.

    TWITCH_NICK    the bot's account, by default the channel's own
    TWITCH_TOKEN   a chat token with chat:read and chat:edit

Twitch allows an ordinary account 20 lines in 30 s; the bot says two per order.
"""

import asyncio
import os
import re
import ssl
import sys
from pathlib import Path

from bot import Bot

from anime_studio.client import DEFAULT_URL, AsyncStudioClient

HOST, PORT = "irc.chat.twitch.tv", 6697
LONGEST_LINE_CHARS = 450
"""Twitch cuts at 500; a clip's link has about 180."""
LONGEST_PAUSE_S = 30.0

_PRIVMSG = re.compile(r"(?:@\S+ )?:(?P<author>[^! ]+)\S* PRIVMSG #\S+ :(?P<text>.*)")


class TwitchChat:
    """One channel's chat; comes back by itself when the connection drops."""

    def __init__(
        self, channel: str, nick: str, token: str, host: str = HOST, port: int = PORT, *, tls: bool = True
    ) -> None:
        self.channel, self.nick, self.token = channel.lower().lstrip("#"), nick, token
        self.host, self.port = host, port
        self.tls = ssl.create_default_context() if tls else None
        self.joined = asyncio.Event()
        self.writer: asyncio.StreamWriter | None = None

    async def say(self, line: str) -> None:
        """Post a line, waiting for the connection if there is none."""
        one_line = re.sub(r"\s+", " ", line)[:LONGEST_LINE_CHARS]
        while True:
            await self.joined.wait()
            try:
                return await self.send(f"PRIVMSG #{self.channel} :{one_line}")
            except OSError:
                self.joined.clear()  # `listen` connects again

    async def listen(self, bot: Bot) -> None:
        """Give the bot every line of chat, for ever."""
        pause_s = 1.0
        while True:
            try:
                await self.connect()
                pause_s = 1.0
                while line := await self.reader.readline():
                    await self.handle(line.decode(errors="replace").rstrip("\r\n"), bot)
            except OSError as error:
                print(f"chat: {error}", file=sys.stderr)
            finally:
                self.hang_up()
            await asyncio.sleep(pause_s)
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)

    async def connect(self) -> None:
        """Open the connection and log in."""
        self.reader, self.writer = await asyncio.open_connection(self.host, self.port, ssl=self.tls)
        for command in (f"PASS {self.token}", f"NICK {self.nick}", f"JOIN #{self.channel}"):
            await self.send(command)

    async def handle(self, line: str, bot: Bot) -> None:
        """Answer the server's own lines, hand the rest to the bot."""
        if line.startswith("PING"):
            await self.send(line.replace("PING", "PONG", 1))
        elif re.match(r":\S+ 366 ", line):  # the end of the names: the channel is joined
            self.joined.set()
        elif "Login authentication failed" in line:
            sys.exit("Twitch refused the token: make one with chat:read and chat:edit, and set TWITCH_TOKEN")
        elif said := _PRIVMSG.match(line):
            bot.hear(said["author"], said["text"])

    def hang_up(self) -> None:
        """Close the connection, if there is one."""
        self.joined.clear()
        if self.writer is not None:
            self.writer.close()

    async def send(self, command: str) -> None:
        """Send one line."""
        if self.writer is None:
            raise ConnectionError("not connected")
        self.writer.write(command.encode() + b"\r\n")
        await self.writer.drain()


async def main() -> None:
    """Run the bot on the channel named on the command line."""
    channel = sys.argv[1]
    chat = TwitchChat(channel, os.environ.get("TWITCH_NICK", channel), os.environ["TWITCH_TOKEN"])
    async with AsyncStudioClient(os.environ.get("ANIME_STUDIO_URL", DEFAULT_URL)) as studio:
        bot = Bot(studio, chat.say, Path("bot-orders.json"), os.environ.get("ANIME_STUDIO_CHANNEL"))
        await chat.listen(bot)


if __name__ == "__main__":
    asyncio.run(main())
