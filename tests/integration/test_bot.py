"""The example bot, unchanged, against a studio behind a real socket, and over a real IRC connection."""

import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import discord
import httpx
import pytest

from anime_studio.client import AsyncStudioClient
from anime_studio.core.recipes import TINY_RANDOM
from common.schemas import Resolution
from support.server_rig import PATIENCE_S, ServerRig

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

from bot import Bot
from discord_bot import Orders
from moderation import SHIPPED, Blocklist
from turns import Limits
from twitch import TwitchChat

CHANNEL = "show-0123456789abcdef"


class Chat:
    """Collects the lines that the bot posts."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.changed = asyncio.Condition()

    async def say(self, line: str) -> None:
        async with self.changed:
            self.lines.append(line)
            self.changed.notify_all()

    async def heard(self, start: str) -> str:
        """Wait for a line that begins so."""

        def found() -> str | None:
            return next((line for line in self.lines if line.startswith(start)), None)

        async with asyncio.timeout(PATIENCE_S), self.changed:
            await self.changed.wait_for(lambda: found() is not None)
        return found() or ""


@pytest.fixture
def chat() -> Chat:
    return Chat()


@contextlib.asynccontextmanager
async def running(http: httpx.Client, say: Callable, file: Path, **changes: object) -> AsyncIterator[Bot]:
    """A bot that is killed at the end, whatever it is doing."""
    async with AsyncStudioClient(str(http.base_url)) as studio:
        changes.setdefault("limits", Limits(cooldown_s=0))
        bot = Bot(studio, say, file, **changes)  # type: ignore[arg-type]
        try:
            yield bot
        finally:
            tasks = [bot.speaking, *bot.deliveries]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def test_an_order_is_acknowledged_with_its_place_then_delivered(
    rig: ServerRig, http: httpx.Client, chat: Chat, tmp_path: Path
) -> None:
    async with running(http, chat.say, tmp_path / "orders.json") as bot:
        bot.hear("mio", "good evening")
        bot.hear("mio", "!anime a cat on a roof")
        await chat.heard("@mio on it, 0 ahead")
        bot.hear("yui", "!anime a fox")
        await chat.heard("@yui on it, 1 ahead")
        await asyncio.to_thread(rig.render_next)
        link = (await chat.heard("@mio http")).split()[1]
        assert "<video" in httpx.get(link).text
        bot.hear("ritsu", "!anime a drum")
        await chat.heard("@ritsu on it, 1 ahead, ready in about ")
    assert [order["author"] for order in json.loads((tmp_path / "orders.json").read_text()).values()] == [
        "yui",
        "ritsu",
    ]


async def test_a_slow_studio_still_gets_an_answer_within_a_second(chat: Chat, tmp_path: Path) -> None:
    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until the bot closes the connection
        writer.close()

    silent = await asyncio.start_server(never_answer, "127.0.0.1", 0)
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
        await bot.finish()
    assert http.get("/status").json()["fallbacks"] == 1
    assert json.loads((tmp_path / "orders.json").read_text()) == {}


async def test_it_orders_clips_of_the_size_that_the_streamer_chose(chat: Chat, tmp_path: Path) -> None:
    rig = ServerRig(tmp_path, recipe=TINY_RANDOM.with_upscaler())
    with rig.serve() as http:
        for size in (Resolution.P1080, Resolution.P480):
            async with running(http, chat.say, tmp_path / "orders.json", resolution=size) as bot:
                bot.hear(size, "!anime a cat")
                assert "cropped" not in await chat.heard(f"@{size} on it"), (
                    "the viewer did not choose the size"
                )
        async with AsyncStudioClient(str(http.base_url)) as studio:
            blocklist = Blocklist.read(SHIPPED)
            orders = Orders(studio, Limits(cooldown_s=0), blocklist, None, 90.0, Resolution.P1080_PORTRAIT)
            with rig.worker():
                await orders.anime(Interaction(), "a fox")
    sizes = [rig.record(job_id).spec.resolution for job_id in rig.launcher.launched]
    assert sizes == [Resolution.P1080, Resolution.P480, Resolution.P1080_PORTRAIT]


async def test_a_size_that_is_not_offered_is_told_to_the_streamer_and_not_to_viewers(
    http: httpx.Client, chat: Chat, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running(http, chat.say, tmp_path / "orders.json", resolution=Resolution.P1080) as bot:
        bot.hear("mio", "!anime a cat")
        assert await chat.heard("@mio no clip") == "@mio no clip: this recipe cannot do that"
    async with AsyncStudioClient(str(http.base_url)) as studio:
        limits, blocklist = Limits(cooldown_s=0), Blocklist.read(SHIPPED)
        await Orders(studio, limits, blocklist, None, 90.0, Resolution.P1080).anime(Interaction(), "a fox")
    told = capsys.readouterr().err
    assert told.count("an order got no clip: resolution 1080p is not drawn by recipe tiny-random") == 2


async def test_a_failure_is_posted_in_words(
    rig: ServerRig, http: httpx.Client, chat: Chat, tmp_path: Path
) -> None:
    async with running(http, chat.say, tmp_path / "orders.json") as bot:
        bot.hear("mio", "!anime a cat")
        await chat.heard("@mio on it")
        await asyncio.to_thread(rig.fail_next)
        await chat.heard("@mio no clip: the drawn frames are unusable")
        bot.hear("yui", "!anime  ")
        await chat.heard("@yui say what to draw")


async def test_a_restarted_bot_delivers_what_the_dead_one_ordered(
    rig: ServerRig, http: httpx.Client, chat: Chat, tmp_path: Path
) -> None:
    file = tmp_path / "orders.json"
    async with running(http, chat.say, file) as bot:
        bot.hear("mio", "!anime a cat")
        await chat.heard("@mio on it")
    await asyncio.to_thread(rig.render_next)
    async with running(http, chat.say, file):
        await chat.heard("@mio http")
    assert sum(line.startswith("@mio on it") for line in chat.lines) == 1
    assert len(rig.launcher.launched) == 1


async def test_a_bot_that_died_before_the_answer_came_orders_nothing_twice(
    rig: ServerRig, http: httpx.Client, chat: Chat, tmp_path: Path
) -> None:
    file = tmp_path / "orders.json"
    async with running(http, chat.say, file) as bot:
        bot.hear("mio", "!anime a cat")
        await chat.heard("@mio on it")
    orders = json.loads(file.read_text())
    job_ids = [order.pop("job_id") for order in orders.values()]  # as if it had died a moment earlier
    file.write_text(json.dumps(orders))
    async with running(http, chat.say, file):
        await asyncio.to_thread(rig.render_next)
        await chat.heard("@mio http")
    assert set(rig.launcher.launched) == set(job_ids)


async def test_orders_reach_the_studio_in_the_order_they_were_said(
    rig: ServerRig, http: httpx.Client, chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = Limits(cooldown_s=0, per_viewer=9, at_studio=9)
    async with running(http, chat.say, tmp_path / "orders.json", limits=limits) as bot:
        submit, delays = bot.studio.submit, iter([0.3, 0.2, 0.1, 0.0])

        async def slow_at_first(*arguments: Any, **options: Any) -> Any:
            await asyncio.sleep(next(delays))
            return await submit(*arguments, **options)

        monkeypatch.setattr(bot.studio, "submit", slow_at_first)
        for number in range(4):
            bot.hear(f"viewer{number}", f"!anime cat {number}")
        for number in range(4):
            await chat.heard(f"@viewer{number} on it, {number} ahead")
    prompts = [http.get(f"/jobs/{job_id}").json()["request"]["prompt"] for job_id in rig.launcher.launched]
    assert prompts == [f"cat {number}" for number in range(4)]


async def test_what_the_blocklist_names_never_reaches_the_studio(
    rig: ServerRig, http: httpx.Client, chat: Chat, tmp_path: Path
) -> None:
    async with running(http, chat.say, tmp_path / "orders.json") as bot:
        bot.hear("troll", "!anime a n.u.d.e bloody corpse with a swastika")
        line = await chat.heard("@troll")
        bot.hear("mio", "!anime 屋根の上の猫")
        await chat.heard("@mio the artist understands English only")
        assert (line, bot.refused, bot.orders) == ("@troll that one is not for this show", 1, {})
    assert rig.launcher.launched == []


async def test_each_viewer_is_bounded_and_is_told_when_to_ask_again(
    http: httpx.Client, chat: Chat, tmp_path: Path
) -> None:
    async with running(http, chat.say, tmp_path / "orders.json", limits=Limits(cooldown_s=40)) as bot:
        bot.hear("mio", "!anime a cat")
        await chat.heard("@mio on it")
        bot.hear("mio", "!anime a dog")
        await chat.heard("@mio ask again in 40 s")
        bot.turns.limits = Limits(cooldown_s=0, per_viewer=1)
        bot.hear("mio", "!anime a dog")
        await chat.heard("@mio you have 1 order open")
        bot.turns.limits = Limits(cooldown_s=0, open_orders=1)
        bot.hear("yui", "!anime a dog")
        await chat.heard("@yui too many orders are open")


async def test_who_was_served_longest_ago_is_next(
    rig: ServerRig, http: httpx.Client, chat: Chat, tmp_path: Path
) -> None:
    limits = Limits(cooldown_s=0, per_viewer=9, at_studio=1)
    async with running(http, chat.say, tmp_path / "orders.json", limits=limits) as bot:
        for number in range(3):
            bot.hear("mio", f"!anime cat {number}")
        bot.hear("yui", "!anime dog")
        await chat.heard("@mio on it, 0 ahead")
        await chat.heard("@yui you are in line, 1 ahead")
        for _ in range(4):
            await asyncio.to_thread(rig.render_next)
        await bot.finish()
    prompts = [http.get(f"/jobs/{job_id}").json()["request"]["prompt"] for job_id in rig.launcher.launched]
    assert prompts == ["cat 0", "dog", "cat 1", "cat 2"]


@pytest.mark.parametrize(
    "line",
    [
        "!Anime a cat",
        "!ANIME\u3000a cat",
        "@studio !anime a cat",
        "\x01ACTION !anime a cat\x01",
        " !anime \t a cat ",
    ],
)
async def test_a_command_is_heard_however_it_is_typed(
    http: httpx.Client, chat: Chat, tmp_path: Path, line: str
) -> None:
    async with running(http, chat.say, tmp_path / "orders.json") as bot:
        bot.hear("mio", line)
        await chat.heard("@mio on it")
        assert [order["prompt"] for order in bot.orders.values()] == ["a cat"]


@pytest.mark.parametrize("line", ["animes are great", "!animelist", "look: !anime a cat", "good evening"])
async def test_other_lines_are_no_orders(http: httpx.Client, chat: Chat, tmp_path: Path, line: str) -> None:
    async with running(http, chat.say, tmp_path / "orders.json") as bot:
        bot.hear("mio", line)
        assert bot.orders == {} and bot.lines.empty()


async def test_a_moderator_pauses_bans_and_cancels_and_nobody_else_does(
    rig: ServerRig, http: httpx.Client, chat: Chat, tmp_path: Path
) -> None:
    limits = Limits(cooldown_s=0, per_viewer=9, at_studio=1)
    async with running(http, chat.say, tmp_path / "orders.json", limits=limits) as bot:
        for line in ("!pause", "!ban cat", "!cancel @mio", "!skip"):
            bot.hear("troll", line)
        bot.hear("mio", "!anime a cat")
        await chat.heard("@mio on it")
        bot.hear("mio", "!anime a second cat")
        bot.hear("mod", "!pause", is_moderator=True)
        bot.hear("yui", "!anime a dog")
        await chat.heard("@yui orders are paused")
        bot.hear("mod", "!resume", is_moderator=True)
        bot.hear("mod", "!ban purple dog", is_moderator=True)
        bot.hear("yui", "!anime a purple dog")
        await chat.heard("@yui that one is not for this show")
        bot.hear("mod", "!cancel @Mio", is_moderator=True)
        await chat.heard("@mod 2 orders cancelled")
        await chat.heard("@mio a moderator cancelled this one")
        await chat.heard("@mio no clip: the job was cancelled")
        assert bot.orders == {}
    async with running(http, chat.say, tmp_path / "orders.json") as bot:
        assert bot.refusal("yui", "a PURPLE d0g"), "a ban outlives the bot"
    assert not any(line.startswith("@troll") for line in chat.lines)
    assert not any("purple" in line for line in chat.lines)


async def test_with_approval_a_clip_is_on_its_channel_only_after_a_moderator_said_so(
    rig: ServerRig, http: httpx.Client, chat: Chat, tmp_path: Path
) -> None:
    def on_air() -> list[str]:
        return [entry["prompt"] for entry in http.get(f"/channels/{CHANNEL}/clips").json()["clips"]]

    limits, options = (
        Limits(cooldown_s=0, per_viewer=9, at_studio=1),
        {"channel": CHANNEL, "needs_approval": True},
    )
    async with running(http, chat.say, tmp_path / "orders.json", limits=limits, **options) as bot:
        with rig.worker():
            for number in range(3):  # one at a time at the studio: a clip that waits holds up no other
                bot.hear(f"v{number}", f"!anime cat {number}")
            for number in range(3):
                await chat.heard(f"@v{number} your clip is ready and waits for a moderator")
        bot.hear("v0", "!approve")
        assert on_air() == []
        bot.hear("mod", "!approve @V2", is_moderator=True)
        page = await chat.heard("@v2 http")
        assert on_air() == ["cat 2"]
        assert httpx.get(page.split()[-1]).status_code == 200
        bot.hear("mod", "!cancel @v1", is_moderator=True)
        await chat.heard("@v1 a moderator cancelled this one")
    # The bot was killed with one clip undecided: the next one asks again, and shows it when the time is over.
    again = {**options, "approve_after_s": 0.2}
    async with running(http, chat.say, tmp_path / "orders.json", limits=limits, **again) as bot:
        await chat.heard("@v0 http")
        assert bot.orders == {}
        bot.hear("mod", "!approve", is_moderator=True)
        await chat.heard("@mod no clip waits")
    assert sorted(on_air()) == ["cat 0", "cat 2"]
    assert sum(line.startswith("@v1 http") for line in chat.lines) == 0


async def test_the_chat_of_the_readme_is_what_viewers_see(
    rig: ServerRig, http: httpx.Client, chat: Chat, tmp_path: Path
) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (excerpt,) = re.findall(r"```text\n(mio: .*?)```", readme, re.DOTALL)
    said = 0
    async with running(http, chat.say, tmp_path / "orders.json", limits=Limits(), needs_approval=True) as bot:
        for line in excerpt.splitlines():
            name, _, words = line.partition(":")
            words = words.strip()
            if name != "studio":
                bot.hear(name, words, is_moderator=name == "mod")
                continue
            if "waits for a moderator" in words:
                await asyncio.to_thread(rig.render_next)
            pattern = (
                re.escape(words)
                .replace("…", ".*")
                .replace("https://studio\\.example", r"http://127\.0\.0\.1:\d+")
            )
            pattern = re.sub(r"in\\ 20\\ s", r"in \\d+\\ s", pattern)
            async with asyncio.timeout(PATIENCE_S), chat.changed:
                await chat.changed.wait_for(lambda said=said: len(chat.lines) > said)
            assert re.fullmatch(pattern, chat.lines[said]), (chat.lines[said], words)
            said += 1
        await bot.finish()
    assert len(chat.lines) == said


async def test_an_order_that_is_being_sent_is_cancelled_too(
    rig: ServerRig, http: httpx.Client, chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(http, chat.say, tmp_path / "orders.json") as bot:
        submit, said = bot.studio.submit, asyncio.Event()

        async def slow(*arguments: Any, **options: Any) -> Any:
            await said.wait()
            return await submit(*arguments, **options)

        monkeypatch.setattr(bot.studio, "submit", slow)
        bot.hear("mio", "!anime a cat")
        await chat.heard("@mio asking the studio")
        bot.hear("mod", "!cancel @mio", is_moderator=True)
        await chat.heard("@mod 1 order cancelled")
        said.set()
        await chat.heard("@mio no clip: the job was cancelled")
    assert rig.record(rig.launcher.launched[0]).state == "cancelled"


async def test_each_order_is_answered_once_through_a_night_of_bursts_and_trolls(
    rig: ServerRig, http: httpx.Client, chat: Chat, tmp_path: Path
) -> None:
    """Forty viewers, most with one wish and some with more than they may; a troll; a bot that is killed half way."""
    rig.policy = replace(rig.policy, max_queued_jobs=99)
    file, limits = tmp_path / "orders.json", Limits(cooldown_s=0, per_viewer=1, open_orders=99)

    def order_all(bot: Bot, viewers: range) -> None:
        for number in viewers:
            bot.hear(f"v{number}", f"!anime cat {number}")
            bot.hear(f"v{number}", "!anime one more")
            bot.hear("troll", "!anime a s w a s t i k a")

    async with running(http, chat.say, file, limits=limits, deadline_s=600) as bot:
        order_all(bot, range(20))
        await chat.heard("@v2 on it")
    async with running(http, chat.say, file, limits=limits, deadline_s=600) as bot:
        order_all(bot, range(20, 40))
        with rig.worker():
            await bot.finish()
    delivered = [line.split()[0] for line in chat.lines if " http" in line]
    assert sorted(delivered) == sorted(f"@v{number}" for number in range(40))
    prompts = [http.get(f"/jobs/{job_id}").json()["request"]["prompt"] for job_id in rig.launcher.launched]
    assert prompts == [f"cat {number}" for number in range(40)]


class IrcServer:
    """The part of Twitch's chat server that a bot needs: login, join, PING, lines, dropped connections."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[str] = asyncio.Queue()
        self.answers_pings = True
        self.drops_at: str | None = None  # closes the connection on such a line, which nobody hears
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
                self.send(":tmi.twitch.tv 366 bot #show :End of /NAMES list")
            if text.startswith("PING :said") and self.answers_pings:
                self.send(":tmi.twitch.tv PONG tmi.twitch.tv :said")
                continue
            if self.drops_at is not None and text.startswith(self.drops_at):
                self.drops_at = None
                writer.close()
                break
            await self.received.put(text)

    def send(self, line: str) -> None:
        self.connections[-1].write(f"{line}\r\n".encode())

    def chatter(self, author: str, text: str, badges: str = "") -> None:
        self.send(
            f"@badges={badges};color=#FF0000 :{author}!{author}@{author}.tmi.twitch.tv PRIVMSG #show :{text}"
        )

    def drop(self) -> None:
        for connection in self.connections:
            connection.close()

    async def until(self, start: str) -> str:
        """Wait for a line that begins so."""
        async with asyncio.timeout(PATIENCE_S):
            while not (line := await self.received.get()).startswith(start):
                pass
        return line


async def test_on_twitch_it_logs_in_answers_pings_takes_orders_and_posts_links(
    rig: ServerRig, http: httpx.Client, tmp_path: Path
) -> None:
    async with IrcServer() as irc:
        chat = TwitchChat("#Show", "bot", "oauth:secret", "127.0.0.1", irc.port, tls=False)
        async with running(http, chat.say, tmp_path / "orders.json") as bot:
            listening = asyncio.create_task(chat.listen(bot))
            login = ["CAP REQ :twitch.tv/tags", "PASS oauth:secret", "NICK bot", "JOIN #show"]
            assert [await irc.until("") for _ in range(4)] == login
            irc.send("PING :tmi.twitch.tv")
            assert await irc.until("PONG") == "PONG :tmi.twitch.tv"
            irc.chatter("mio", "!anime a cat: on a roof")
            assert await irc.until("PRIVMSG #show :@mio on it, 0 ahead")
            assert rig.launcher.launched
            job = http.get(f"/jobs/{rig.launcher.launched[0]}").json()
            assert job["request"]["prompt"] == "a cat: on a roof"

            irc.drop()  # the clip is ready while chat is away
            await asyncio.to_thread(rig.render_next)
            link = await irc.until("PRIVMSG #show :@mio http")
            assert httpx.get(link.split()[-1]).status_code == 200
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)


async def test_a_night_on_twitch_with_a_dropped_chat_and_a_restarted_studio(
    rig: ServerRig, tmp_path: Path
) -> None:
    """Forty viewers, each with one wish more than they may; a troll; a moderator who pauses, approves and cancels."""
    rig.policy = replace(rig.policy, max_queued_jobs=99)
    heard: list[str] = []

    def count(words: str) -> int:
        return sum(words in line for line in heard)

    def on_air() -> list[str]:
        prompts, page = [], {"next_after": 0, "more": True}
        while page["more"]:
            page = http.get(f"/channels/{CHANNEL}/clips", params={"after": page["next_after"]}).json()
            prompts += [clip["prompt"] for clip in page["clips"]]
        return prompts

    async with IrcServer() as irc, contextlib.AsyncExitStack() as night:

        async def until(words: str, times: int = 1) -> None:
            """Read chat until *times* more of its lines hold *words*."""
            enough = count(words) + times
            async with asyncio.timeout(PATIENCE_S):
                while count(words) < enough:
                    heard.append(await irc.received.get())

        def order_all(viewers: range) -> None:
            for number in viewers:
                irc.chatter(f"v{number}", f"!anime cat {number}")
                irc.chatter(f"v{number}", "!anime one more")
                irc.chatter("troll", "!anime a s w a s t i k a")

        before_restart = night.enter_context(contextlib.ExitStack())
        http = before_restart.enter_context(rig.serve())
        port = http.base_url.port
        assert port is not None
        chat = TwitchChat("show", "bot", "secret", "127.0.0.1", irc.port, tls=False)
        chat.said_at = deque(maxlen=0)  # Twitch's bound would make the night four minutes long
        chat.pause_s = 0.05
        limits = Limits(cooldown_s=0, per_viewer=1, open_orders=99)
        options = {"limits": limits, "deadline_s": 600, "channel": CHANNEL, "needs_approval": True}
        bot = await night.enter_async_context(running(http, chat.say, tmp_path / "orders.json", **options))
        listening = asyncio.create_task(chat.listen(bot))
        await until("JOIN")
        order_all(range(20))
        irc.chatter("mod", "!pause", badges="moderator/1")
        irc.chatter("v20", "!anime too early")
        irc.chatter("mod", "!resume", badges="moderator/1")
        await until("PRIVMSG #show :@mod orders are open again")
        await settled(rig, bot, launched=3)

        irc.drop()
        await until("JOIN")
        await asyncio.to_thread(before_restart.close)
        order_all(range(20, 40))
        with rig.serve(port) as http, rig.worker():
            await until(" waits for a moderator", 40 - count(" waits for a moderator"))
            assert on_air() == []
            irc.chatter("v1", "!approve @v1")  # no moderator
            irc.chatter("mod", "!cancel @v0", badges="moderator/1")
            await until("@mod 1 order cancelled")
            for number in reversed(range(1, 40)):
                irc.chatter("mod", f"!approve @v{number}", badges="moderator/1")
            await until("@mod approved", 39)
            await bot.finish()
            irc.chatter("mod", "!pause", badges="moderator/1")
            await until("PRIVMSG #show :@mod orders are paused")
            delivered = [line.split() for line in heard if " http" in line]
            pages = [httpx.get(words[-1]) for words in delivered]
            shown = on_air()
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)

    names = [f":@v{number}" for number in range(40)]
    assert sorted(words[2] for words in delivered) == sorted(names[1:])
    assert count(":@v0 a moderator cancelled this one") == 1
    assert sorted(line.split()[2] for line in heard if " on it, " in line) == sorted(names)
    assert sorted(shown) == sorted(f"cat {number}" for number in range(1, 40))
    assert all(page.status_code == 200 and "<video" in page.text for page in pages)
    assert count("not for this show") == 40
    assert count(":@v20 orders are paused") == 1
    assert not any("swastika" in line.replace(" ", "") for line in heard)
    prompts = [rig.record(job_id).spec.prompt for job_id in dict.fromkeys(rig.launcher.launched)]
    assert prompts == [f"cat {number}" for number in range(40)]


async def settled(rig: ServerRig, bot: Bot, *, launched: int) -> None:
    """Wait until so many orders are at the studio and all that the bot said has left it."""
    async with asyncio.timeout(PATIENCE_S):
        while sum("job_id" in order for order in bot.orders.values()) < launched:
            await asyncio.sleep(0.01)
        await bot.lines.join()
    assert len(rig.launcher.launched) == launched


async def test_on_twitch_moderators_are_known_by_their_badges(
    rig: ServerRig, http: httpx.Client, tmp_path: Path
) -> None:
    async with IrcServer() as irc, on_twitch(http, irc, tmp_path) as bot:
        await irc.until("JOIN")
        irc.chatter("viewer", "!pause", badges="subscriber/12")
        irc.chatter("mod", "!pause", badges="moderator/1,subscriber/3")
        await irc.until("PRIVMSG #show :@mod orders are paused")
        irc.chatter("host", "!resume", badges="broadcaster/1")
        await irc.until("PRIVMSG #show :@host orders are open again")
        assert not bot.paused


async def test_on_twitch_a_dead_peer_is_noticed_and_chat_goes_on(
    rig: ServerRig, http: httpx.Client, tmp_path: Path
) -> None:
    async with IrcServer() as irc, on_twitch(http, irc, tmp_path, silent_s=0.2, pause_s=0.05):
        for _ in range(2):  # the server says nothing after the join, and does not answer the PING
            await irc.until("JOIN")
            await irc.until("PING")
        await irc.until("JOIN")
        irc.chatter("mio", "!anime a cat")
        await irc.until("PRIVMSG #show :@mio on it, 0 ahead")


async def test_on_twitch_a_line_that_is_lost_with_the_connection_is_said_again(
    rig: ServerRig, http: httpx.Client, tmp_path: Path
) -> None:
    async with IrcServer() as irc, on_twitch(http, irc, tmp_path, pause_s=0.05) as bot:
        await irc.until("JOIN")
        irc.drops_at = "PRIVMSG #show :@mio on it"
        irc.chatter("mio", "!anime a cat")
        await irc.until("JOIN")
        await irc.until("PRIVMSG #show :@mio on it, 0 ahead")
        irc.chatter("mod", "!pause", badges="moderator/1")
        assert await irc.until("PRIVMSG") == "PRIVMSG #show :@mod orders are paused", "each line once"
        await bot.lines.join()


async def test_on_twitch_pauses_grow_until_a_log_in_succeeds(http: httpx.Client, tmp_path: Path) -> None:
    pauses, enough = [], asyncio.Event()

    async def noted(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 7:
            enough.set()
            await asyncio.Event().wait()

    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    chat = TwitchChat("show", "bot", "secret", "127.0.0.1", server.sockets[0].getsockname()[1], tls=False)
    chat.sleep = noted  # type: ignore[method-assign]
    async with running(http, chat.say, tmp_path / "orders.json") as bot:
        listening = asyncio.create_task(chat.listen(bot))
        await asyncio.wait_for(enough.wait(), PATIENCE_S)
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    server.close()
    assert pauses == [1, 2, 4, 8, 16, 30, 30]


async def test_on_twitch_a_refused_token_ends_the_bot_with_what_to_do(
    http: httpx.Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with IrcServer() as irc:
        chat = TwitchChat("show", "bot", "secret", "127.0.0.1", irc.port, tls=False)
        async with running(http, chat.say, tmp_path / "orders.json") as bot:
            with pytest.raises(SystemExit, match="set TWITCH_TOKEN"):
                await chat.handle(":tmi.twitch.tv NOTICE * :Login authentication failed", bot)
    assert chat.token == "oauth:secret"
    assert "Twitch says: Login authentication failed" in capsys.readouterr().err


@contextlib.asynccontextmanager
async def on_twitch(http: httpx.Client, irc: IrcServer, folder: Path, **changes: float) -> AsyncIterator[Bot]:
    chat = TwitchChat("show", "bot", "secret", "127.0.0.1", irc.port, tls=False)
    for name, value in changes.items():
        setattr(chat, name, value)
    async with running(http, chat.say, folder / "orders.json") as bot:
        listening = asyncio.create_task(chat.listen(bot))
        try:
            yield bot
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["twitch.py"], "the following arguments are required: channel"),
        (["twitch.py", "show"], "set TWITCH_TOKEN"),
        (["discord_bot.py"], "set DISCORD_TOKEN"),
        (["discord_bot.py", "--approve"], "no clip waits for approval"),
        (["bot.py", "--blocklist", "none.txt"], "none.txt: No such file"),
        (
            ["bot.py", "--resolution", "720p"],
            "choose from '480p', '480p-portrait', '1080p', '1080p-portrait'",
        ),
    ],
)
def test_what_is_missing_is_one_line_and_no_traceback(command: list[str], words: str, tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "examples" / command[0]
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_TOKEN")}
    if "--approve" in command:
        environment["DISCORD_TOKEN"] = "t"
    done = subprocess.run(
        [sys.executable, script, *command[1:]],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=60,
    )
    assert done.returncode != 0 and words in done.stderr and "Traceback" not in done.stderr


def test_the_command_line_chooses_the_size(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "examples" / "bot.py"
    rig = ServerRig(tmp_path, recipe=TINY_RANDOM.with_upscaler())
    with rig.serve() as http, rig.worker():
        command = [sys.executable, script, "--url", str(http.base_url), "--resolution", "1080p"]
        subprocess.run(
            command, input="!anime a cat\n", text=True, check=True, cwd=tmp_path, timeout=PATIENCE_S
        )
    assert rig.record(rig.launcher.launched[0]).spec.resolution is Resolution.P1080


def test_ctrl_c_stops_it_with_one_line(http: httpx.Client, tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "examples" / "bot.py"
    with subprocess.Popen(
        [sys.executable, script, "--url", str(http.base_url)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
    ) as process:  # fmt: skip
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write("!anime a cat\n")
        process.stdin.flush()
        assert process.stdout.readline().startswith("@you on it")
        process.send_signal(signal.SIGINT)
        process.stdin.close()
        assert process.stderr.read() == "stopped; open orders go on at the next start\n"
        assert process.wait() == 130


class Interaction:
    """Stands for Discord's: keeps what the command answers."""

    def __init__(self, viewer: int = 1, name: str = "mio") -> None:
        self.id = next(_ids)
        self.user = SimpleNamespace(id=viewer, display_name=name)
        self.response = self
        self.answers: list[Any] = []
        self.done: asyncio.Task[None] | None = None

    async def send_message(self, words: str, *, ephemeral: bool) -> None:
        self.answers.append(("alone", words) if ephemeral else words)

    async def defer(self, *, thinking: bool) -> None:
        pass

    async def edit_original_response(self, *, content: str | None, attachments: Any = ()) -> None:
        self.answers.append([file.fp.read() for file in attachments] or content)


_ids = itertools.count(1)


async def test_on_discord_the_answer_is_the_clip_itself(rig: ServerRig, http: httpx.Client) -> None:
    async with AsyncStudioClient(str(http.base_url)) as studio:
        orders = Orders(studio, Limits(cooldown_s=0), Blocklist.read(SHIPPED), None, 90.0)
        refused, mine = Interaction(), Interaction()
        await orders.anime(refused, "a nude")
        with rig.worker():
            await orders.anime(mine, "a cat")
        assert refused.answers == [("alone", "that one is not for this show")]
        assert b"ftyp" in mine.answers[-1][0][:12]
        job = http.get(f"/jobs/{rig.launcher.launched[0]}").json()
        assert (job["requested_by"], len(rig.launcher.launched)) == ("mio", 1)
        assert orders.turns.at_studio == {} and orders.turns.waiting == {}


async def test_on_discord_viewers_take_turns(rig: ServerRig, http: httpx.Client) -> None:
    async with AsyncStudioClient(str(http.base_url)) as studio:
        limits = Limits(cooldown_s=0, per_viewer=9, at_studio=1)
        orders = Orders(studio, limits, Blocklist.read(SHIPPED), None, 90.0)
        answers, said = [], [(1, "first"), (1, "second"), (1, "third"), (2, "another's")]
        for viewer, prompt in said:
            answers.append(Interaction(viewer, f"v{viewer}"))
            task = asyncio.create_task(orders.anime(answers[-1], prompt))
            answers[-1].done = task
            await asyncio.sleep(0)
        with rig.worker():
            await asyncio.gather(*(answer.done for answer in answers))
    assert [rig.record(job_id).spec.prompt for job_id in rig.launcher.launched] == [
        "first", "another's", "second", "third",
    ]  # fmt: skip
    assert answers[3].answers[0] == "you are in line, 1 ahead"
    assert all(b"ftyp" in answer.answers[-1][0][:12] for answer in answers)


async def test_on_discord_a_failure_and_a_bound_are_words(rig: ServerRig, http: httpx.Client) -> None:
    async with AsyncStudioClient(str(http.base_url)) as studio:
        orders = Orders(studio, Limits(cooldown_s=99), Blocklist.read(SHIPPED), None, 90.0)
        failed, soon = Interaction(), Interaction()
        failing = asyncio.create_task(orders.anime(failed, "a cat"))
        await asyncio.to_thread(rig.fail_next)
        await failing
        await orders.anime(soon, "a dog")
        assert failed.answers[-1] == "no clip: the drawn frames are unusable"
        assert soon.answers[0][1].startswith("ask again in ")


async def test_on_discord_an_answer_that_discord_refuses_frees_the_viewers_turn(
    rig: ServerRig, http: httpx.Client, capsys: pytest.CaptureFixture[str]
) -> None:
    class Gone(Interaction):
        async def edit_original_response(self, *, content: str | None, attachments: Any = ()) -> None:
            response = SimpleNamespace(status=404, reason="Not Found")
            raise discord.NotFound(response, "Unknown Webhook")  # type: ignore[arg-type]

    async with AsyncStudioClient(str(http.base_url)) as studio:
        orders = Orders(studio, Limits(cooldown_s=0, per_viewer=1), Blocklist.read(SHIPPED), None, 90.0)
        with rig.worker():
            await orders.anime(Gone(), "a cat")
        assert "Discord took no answer" in capsys.readouterr().err
        assert orders.refusal("1", "a dog") is None
