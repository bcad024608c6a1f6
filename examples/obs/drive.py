"""Drives a real OBS and prints which ways of showing clips work in it: `python examples/obs/drive.py`.

On Debian: `apt-get install obs-studio xvfb libvlc5 vlc-plugin-base`, and the dev extra for aiohttp and PyAV. OBS runs
under Xvfb with a configuration of its own, so nobody's OBS is touched. It is driven by obs-websocket 5 (protocol:
github.com/obsproject/obs-websocket, docs/generated/protocol.md). The table in README.md was printed by this script.
"""

import asyncio
import base64
import io
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import av
import numpy as np
from PIL import Image

HERE = Path(__file__).parent
SIZE = (832, 480)
RED, GREEN, BLUE = (200, 40, 40), (40, 200, 40), (40, 40, 200)
PATIENCE_S = 60.0
CANVASES = {"anime-studio.json": (1920, 1080), "anime-studio-720p.json": (1280, 720)}
KEPT_S, EVERY_S = 12.0, 0.15
"""A two-second clip is watched so long, about six rounds, and looked at so often."""

GLOBAL_INI = """[General]
FirstRun=true
LastVersion=486539266
EnableAutoUpdates=false

[Basic]
SceneCollection=anime-studio
SceneCollectionFile=anime-studio
Profile=drive
ProfileDir=drive

[OBSWebSocket]
FirstLoad=false
ServerEnabled=true
ServerPort={port}
AuthRequired=false
AlertsEnabled=false
"""
PROFILE_INI = """[General]
Name=drive

[Video]
BaseCX={width}
BaseCY={height}
OutputCX={width}
OutputCY={height}
FPSCommon=30
"""


class Obs:
    """One OBS, by obs-websocket."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket, self.number = socket, 0

    async def ask(self, request: str, **data: Any) -> dict[str, Any]:
        """Send a request and return its answer."""
        self.number += 1
        body = {"requestType": request, "requestId": str(self.number), "requestData": data}
        await self.socket.send_json({"op": 6, "d": body})
        while (message := await self.socket.receive_json(timeout=PATIENCE_S))["op"] != 7:
            pass  # events
        if not message["d"]["requestStatus"]["result"]:
            raise RuntimeError(f"{request}: {message['d']['requestStatus']}")
        return dict(message["d"].get("responseData") or {})

    async def colour(self, source: str) -> tuple[int, int, int]:
        """Return the mean colour of what *source* shows now."""
        answer = await self.ask(
            "GetSourceScreenshot", sourceName=source, imageFormat="png", imageWidth=64, imageHeight=36
        )
        png = base64.b64decode(answer["imageData"].partition(",")[2])
        picture = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=float)
        red, green, blue = picture.mean(axis=(0, 1))
        return round(red), round(green), round(blue)

    async def wait_for(self, source: str, wanted: str) -> None:
        """Wait until *source* shows the colour called *wanted*."""
        async with asyncio.timeout(PATIENCE_S):
            while name_of(await self.colour(source)) != wanted:  # noqa: ASYNC110  no event tells it
                await asyncio.sleep(EVERY_S)

    async def watch(self, source: str) -> list[str]:
        """Return what *source* shows, look by look."""
        loop, seen = asyncio.get_running_loop(), []
        until = loop.time() + KEPT_S
        while loop.time() < until:
            seen.append(name_of(await self.colour(source)))
            await asyncio.sleep(EVERY_S)
        return seen


def name_of(colour: tuple[int, int, int]) -> str:
    """Return red, green, blue or nothing."""
    strongest = max(range(3), key=colour.__getitem__)
    return ("red", "green", "blue")[strongest] if colour[strongest] > 100 else "nothing"


def write_clip(path: Path, colour: tuple[int, int, int]) -> None:
    """Write a clip of two seconds and one colour, as the studio encodes them, and put it in place in one step."""
    partial = path.with_suffix(".part")
    with av.open(str(partial), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=16)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.full((SIZE[1], SIZE[0], 3), colour, np.uint8))
        for number in range(33):
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    partial.replace(path)


@asynccontextmanager
async def running_obs(folder: Path, collection: str, display: str) -> AsyncIterator[Obs]:
    """Start OBS with one of our scene collections, on a canvas of its size; end it after the block."""
    width, height = CANVASES[collection]
    config, port = folder / "obs-studio", 20_000 + os.getpid() % 20_000
    scenes, profile = config / "basic/scenes", config / "basic/profiles/drive"
    for made in (scenes, profile):
        made.mkdir(parents=True)
    (config / "global.ini").write_text(GLOBAL_INI.format(port=port))
    (profile / "basic.ini").write_text(PROFILE_INI.format(width=width, height=height))
    shutil.copyfile(HERE / collection, scenes / "anime-studio.json")
    environment = os.environ | {
        "DISPLAY": display,
        "HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder),
        "LIBGL_ALWAYS_SOFTWARE": "1",
        "QT_QPA_PLATFORM": "xcb",
    }
    with (folder / "obs.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: ASYNC220
            ["obs", "--multi"], env=environment, stdout=log, stderr=log
        )
    try:
        async with aiohttp.ClientSession() as session:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    try:
                        socket = await session.ws_connect(f"http://127.0.0.1:{port}", max_msg_size=0)
                        break
                    except aiohttp.ClientError:
                        if process.poll() is not None:
                            raise RuntimeError((folder / "obs.log").read_text()[-2000:]) from None
                        await asyncio.sleep(0.3)
            await socket.receive_json(timeout=PATIENCE_S)
            await socket.send_json({"op": 1, "d": {"rpcVersion": 1, "eventSubscriptions": 0}})
            await socket.receive_json(timeout=PATIENCE_S)
            obs = Obs(socket)
            async with asyncio.timeout(PATIENCE_S):
                while True:  # the collection loads after the server answers
                    try:
                        await obs.ask("GetSceneList")
                        break
                    except RuntimeError:
                        await asyncio.sleep(0.3)
            yield obs
            await socket.close()
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


async def collection_loads(obs: Obs, collection: str) -> str:
    """Check the two scenes: each item lies within the canvas, in the place that the file says."""
    width, height = CANVASES[collection]
    video = await obs.ask("GetVideoSettings")
    assert (video["baseWidth"], video["baseHeight"]) == (width, height)
    names = {scene["sceneName"] for scene in (await obs.ask("GetSceneList"))["scenes"]}
    assert names == {"Anime clips", "Anime clips in the corner"}, names
    seen = []
    for name in sorted(names):
        (item,) = (await obs.ask("GetSceneItemList", sceneName=name))["sceneItems"]
        box = item["sceneItemTransform"]
        right, bottom = box["positionX"] + box["boundsWidth"], box["positionY"] + box["boundsHeight"]
        assert right <= width and bottom <= height, (name, box)
        seen.append(
            f"{box['boundsWidth']:g}x{box['boundsHeight']:g} at {box['positionX']:g},{box['positionY']:g}"
        )
    return f"both scenes, inside {width}x{height}: {'; '.join(seen)}"


async def browser_source(obs: Obs) -> str:
    """Say whether this build of OBS has a browser source."""
    kinds = (await obs.ask("GetInputKindList", unversioned=True))["inputKinds"]
    return "there is one" if "browser_source" in kinds else "**this build has none**"


async def looped_file(obs: Obs, folder: Path) -> str:
    """Loop a local file in a Media Source."""
    write_clip(folder / "fixed.mp4", RED)
    await add(obs, "media", "ffmpeg_source", local_file=str(folder / "fixed.mp4"), looping=True)
    await obs.wait_for("media", "red")
    return gaps(await obs.watch("media"), "red")


async def followed_file(obs: Obs, folder: Path) -> str:
    """Loop `current.mp4` in a Media Source, and replace the file as `anime-studio follow` does."""
    write_clip(folder / "current.mp4", RED)
    settings = {"local_file": str(folder / "current.mp4"), "looping": True}
    await add(obs, "followed", "ffmpeg_source", **settings)
    await obs.wait_for("followed", "red")
    write_clip(folder / "current.mp4", BLUE)
    seen = await obs.watch("followed")
    if "blue" in seen:
        return f"the new clip comes by itself; {gaps(seen[seen.index('blue') :], 'blue')}"
    action = "OBS_WEBSOCKET_MEDIA_INPUT_ACTION_RESTART"
    await obs.ask("TriggerMediaInputAction", inputName="followed", mediaAction=action)
    seen = await obs.watch("followed")
    if "blue" in seen:
        return (
            f"the old clip goes on until a restart of the source; then the new one, {gaps(seen[3:], 'blue')}"
        )
    await obs.ask("SetInputSettings", inputName="followed", inputSettings=settings)
    await obs.wait_for("followed", "blue")
    return "the old clip goes on until the source's settings are applied again"


async def followed_folder(obs: Obs, folder: Path) -> str:
    """Loop a folder in a VLC Video Source."""
    clips = folder / "clips"
    clips.mkdir()
    write_clip(clips / "1.mp4", RED)
    write_clip(clips / "2.mp4", BLUE)
    await add(
        obs,
        "vlc",
        "vlc_source",
        loop=True,
        playlist=[{"value": str(clips), "hidden": False, "selected": False}],
    )
    await obs.wait_for("vlc", "red")
    seen = await obs.watch("vlc")
    write_clip(clips / "3.mp4", GREEN)
    later = await obs.watch("vlc")
    turns = "both clips in turn" if "blue" in seen else "the first clip alone"
    added = (
        "one that is added later comes too" if "green" in later else "one that is added later does not come"
    )
    return f"{turns}, {seen.count('nothing')} dark looks of {len(seen)}; {added}"


async def vlc_followed_file(obs: Obs, folder: Path) -> str:
    """Loop `current.mp4` in a VLC Video Source, and replace the file as `anime-studio follow` does."""
    write_clip(folder / "vlc-current.mp4", RED)
    await add(
        obs, "vlc followed", "vlc_source", loop=True, playlist=[{"value": str(folder / "vlc-current.mp4")}]
    )
    await obs.wait_for("vlc followed", "red")
    write_clip(folder / "vlc-current.mp4", BLUE)
    seen = await obs.watch("vlc followed")
    if "blue" not in seen:
        return "the old clip goes on"
    return f"the new clip comes by itself at the end of the round; {gaps(seen[seen.index('blue') :], 'blue')}"


async def media_shown_again(obs: Obs, folder: Path) -> str:
    """Replace the file of a Media Source that closes it when it is hidden, then hide the source and show it again."""
    write_clip(folder / "hidden.mp4", RED)
    settings = {"local_file": str(folder / "hidden.mp4"), "looping": True, "close_when_inactive": True}
    await add(obs, "hidden", "ffmpeg_source", **settings)
    await obs.wait_for("hidden", "red")
    write_clip(folder / "hidden.mp4", BLUE)
    item = (await obs.ask("GetSceneItemId", sceneName="Anime clips", sourceName="hidden"))["sceneItemId"]
    for shown in (False, True):
        await obs.ask(
            "SetSceneItemEnabled", sceneName="Anime clips", sceneItemId=item, sceneItemEnabled=shown
        )
        await asyncio.sleep(2)
    await obs.wait_for("hidden", "blue")
    return "hidden and shown again, it has the new clip"


async def add(obs: Obs, name: str, kind: str, **settings: Any) -> None:
    """Add a source to the first scene."""
    await obs.ask(
        "CreateInput", sceneName="Anime clips", inputName=name, inputKind=kind, inputSettings=settings
    )


def gaps(seen: list[str], wanted: str) -> str:
    """Say how often something else than *wanted* was seen."""
    return f"{sum(look != wanted for look in seen)} dark looks of {len(seen)}"


async def tried(what: str, check: Awaitable[str]) -> None:
    """Print one row of the table."""
    try:
        print(f"| {what} | {await check} |", flush=True)
    except (AssertionError, RuntimeError, TimeoutError) as error:
        print(f"| {what} | FAILED: {type(error).__name__} {error} |", flush=True)


async def main(display: str, version: str) -> None:
    """Print the table."""
    print(f"{version}, under Xvfb, {datetime.now(UTC):%Y-%m-%d}\n\n| tried | seen |\n|---|---|")
    for collection in CANVASES:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            async with running_obs(folder, collection, display) as obs:
                await tried(f"scene collection `{collection}`", collection_loads(obs, collection))
                if collection != "anime-studio.json":
                    continue
                checks: dict[str, Callable[[Obs, Path], Awaitable[str]]] = {
                    "Media Source, local file, loop": looped_file,
                    "Media Source, `current.mp4` of `follow`, loop": followed_file,
                    "the same, *Close file when inactive* on": media_shown_again,
                    "VLC Video Source, `current.mp4` of `follow`, loop": vlc_followed_file,
                    "VLC Video Source, a folder of clips, loop": followed_folder,
                }
                await tried("browser source", browser_source(obs))
                for what, check in checks.items():
                    await tried(what, check(obs, folder))


if __name__ == "__main__":
    reading, writing = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writing), "-screen", "0", "1920x1080x24"],
        pass_fds=[writing], stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        version = subprocess.run(
            ["obs", "--version"], capture_output=True, text=True, check=True
        ).stdout.strip()
        asyncio.run(main(f":{os.read(reading, 16).decode().strip()}", version))
    finally:
        server.terminate()
        server.wait()
