"""The example bot, unchanged, against a studio behind a real socket; on a real IRC connection, too."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from anime_studio.client import AsyncStudioClient
from support.stage import Stage

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

from bot import Bot
from twitch import TwitchChat

PATIENCE_S = 180


class Chat:
    """What was said, and when."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.said = asyncio.Condition()

    async def say(self, line: str) -> None:
        async with self.said:
            self.lines.append(line)
            self.said.notify_all()

    async def heard(self, start: str) -> str:
        """Wait for a line that begins so."""

        def found() -> str | None:
            return next((line for line in self.lines if line.startswith(start)), None)

        async with asyncio.timeout(PATIENCE_S), self.said:
            await self.said.wait_for(lambda: found() is not None)
        return found() or ""


@pytest.fixture
def chat() -> Chat:
    return Chat()


@contextlib.asynccontextmanager
async def running(http: httpx.Client, say: Callable, file: Path, **changes: object) -> AsyncIterator[Bot]:
    """A bot that is killed at the end, whatever it is doing."""
    async with AsyncStudioClient(str(http.base_url)) as studio:
        bot = Bot(studio, say, file)
        for name, value in changes.items():
            setattr(bot, name, value)
        try:
            yield bot
        finally:
            for delivery in bot.deliveries:
                delivery.cancel()
            await asyncio.gather(*bot.deliveries, return_exceptions=True)


async def test_an_order_is_acknowledged_with_its_place_then_delivered(
    stage: Stage, http: httpx.Client, chat: Chat, tmp_path: Path
) -> None:
    async with running(http, chat.say, tmp_path / "orders.json") as bot:
        bot.hear("mio", "good evening")
        bot.hear("mio", "!anime a cat on a roof")
        await chat.heard("@mio on it, 0 ahead")
        bot.hear("yui", "!anime a fox")
        await chat.heard("@yui on it, 1 ahead")
        await asyncio.to_thread(stage.draw_next)
        link = (await chat.heard("@mio http")).split()[1]
        assert httpx.get(link).headers["content-type"] == "video/mp4"
        bot.hear("ritsu", "!anime a drum")
        await chat.heard("@ritsu on it, 1 ahead, ready in about ")
    assert [order["author"] for order in json.loads((tmp_path / "orders.json").read_text()).values()] == [
        "yui",
        "ritsu",
    ]


async def test_a_slow_studio_still_gets_an_answer_within_a_second(chat: Chat, tmp_path: Path) -> None:
    async def never(*_: object) -> None:
        await asyncio.sleep(3600)

    silent = await asyncio.start_server(never, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
        async with running(http, chat.say, tmp_path / "orders.json") as bot:
            bot.hear("mio", "!anime a cat")
            await chat.heard("@mio asking the studio")
    silent.close()


async def test_a_clip_that_comes_too_late_is_replaced_and_the_operator_sees_it(
    http: httpx.Client, chat: Chat, tmp_path: Path
) -> None:
    async with running(http, chat.say, tmp_path / "orders.json", deadline_s=1.0) as bot:
        bot.hear("mio", "!anime a cat")
        await chat.heard("@mio no clip this time")
        await asyncio.gather(*bot.deliveries)
    assert http.get("/status").json()["fallbacks"] == 1
    assert json.loads((tmp_path / "orders.json").read_text()) == {}


async def test_a_failure_is_said_in_words(
    stage: Stage, http: httpx.Client, chat: Chat, tmp_path: Path
) -> None:
    async with running(http, chat.say, tmp_path / "orders.json") as bot:
        bot.hear("mio", "!anime a cat")
        await chat.heard("@mio on it")
        await asyncio.to_thread(stage.fail_next)
        await chat.heard("@mio no clip: the drawn frames are unusable")
        bot.hear("yui", "!anime  ")
        await chat.heard("@yui no clip: ")


async def test_a_restarted_bot_delivers_what_the_dead_one_ordered(
    stage: Stage, http: httpx.Client, chat: Chat, tmp_path: Path
) -> None:
    file = tmp_path / "orders.json"
    async with running(http, chat.say, file) as bot:
        bot.hear("mio", "!anime a cat")
        await chat.heard("@mio on it")
    await asyncio.to_thread(stage.draw_next)
    async with running(http, chat.say, file):
        await chat.heard("@mio http")
    assert sum(line.startswith("@mio on it") for line in chat.lines) == 1
    assert len(stage.launcher.launched) == 1


async def test_a_bot_that_died_before_the_answer_came_orders_nothing_twice(
    stage: Stage, http: httpx.Client, chat: Chat, tmp_path: Path
) -> None:
    file = tmp_path / "orders.json"
    async with running(http, chat.say, file) as bot:
        bot.hear("mio", "!anime a cat")
        await chat.heard("@mio on it")
    orders = json.loads(file.read_text())
    job_ids = [order.pop("job_id") for order in orders.values()]  # as if it had died a moment earlier
    file.write_text(json.dumps(orders))
    async with running(http, chat.say, file):
        await asyncio.to_thread(stage.draw_next)
        await chat.heard("@mio http")
    assert set(stage.launcher.launched) == set(job_ids)


class IrcServer:
    """As much of Twitch's chat server as a bot meets: login, join, PING, lines, and dropped connections."""

    def __init__(self) -> None:
        self.got: asyncio.Queue[str] = asyncio.Queue()
        self.connections: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> "IrcServer":
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.drop()
        self.server.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer)
        while line := await reader.readline():
            assert line.endswith(b"\r\n")
            text = line.decode().rstrip("\r\n")
            if text.startswith("JOIN "):
                self.tell(":tmi.twitch.tv 366 bot #show :End of /NAMES list")
            await self.got.put(text)

    def tell(self, line: str) -> None:
        self.connections[-1].write(f"{line}\r\n".encode())

    def chatter(self, author: str, text: str) -> None:
        self.tell(f"@badges=;color=#FF0000 :{author}!{author}@{author}.tmi.twitch.tv PRIVMSG #show :{text}")

    def drop(self) -> None:
        for connection in self.connections:
            connection.close()

    async def until(self, start: str) -> str:
        """Wait for a line that begins so."""
        async with asyncio.timeout(PATIENCE_S):
            while not (line := await self.got.get()).startswith(start):
                pass
        return line


async def test_on_twitch_it_logs_in_answers_pings_takes_orders_and_posts_links(
    stage: Stage, http: httpx.Client, tmp_path: Path
) -> None:
    async with IrcServer() as irc:
        chat = TwitchChat("#Show", "bot", "oauth:secret", "127.0.0.1", irc.port, tls=False)
        async with running(http, chat.say, tmp_path / "orders.json") as bot:
            listening = asyncio.create_task(chat.listen(bot))
            assert [await irc.until("") for _ in range(3)] == ["PASS oauth:secret", "NICK bot", "JOIN #show"]
            irc.tell("PING :tmi.twitch.tv")
            assert await irc.until("PONG") == "PONG :tmi.twitch.tv"
            irc.chatter("mio", "!anime a cat: on a roof")
            assert await irc.until("PRIVMSG #show :@mio on it, 0 ahead")
            assert stage.launcher.launched
            job = http.get(f"/jobs/{stage.launcher.launched[0]}").json()
            assert job["request"]["prompt"] == "a cat: on a roof"

            irc.drop()  # the clip is ready while chat is away
            await asyncio.to_thread(stage.draw_next)
            link = await irc.until("PRIVMSG #show :@mio http")
            assert httpx.get(link.split()[-1]).status_code == 200
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
