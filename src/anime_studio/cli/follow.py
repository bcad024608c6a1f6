"""`follow`: saves a channel's clips in a folder as they come, for OBS without a browser source and for players.

The folder has each clip, `current.mp4` (the newest, replaced in one step), `clips.m3u` (a playlist, oldest first) and
`.follow.json`, which says where to go on after a restart and which files may be deleted.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import typer
from pydantic import BaseModel, ConfigDict

from anime_studio.cli.generate import studio_at
from anime_studio.cli.output import Output, UrlOption, answering
from anime_studio.client import DEFAULT_URL, ClipGoneError, RefusedError, StudioClient, StudioError
from common.show import ChannelClip, ChannelClips

CURRENT: Final = "current.mp4"
PLAYLIST: Final = "clips.m3u"
STATE: Final = ".follow.json"
LOOK_EVERY_S: Final = 2.0
LOOK_WHILE_DRAWING_S: Final = 0.5
LONGEST_PAUSE_S: Final = 15.0


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(follow)


def follow(
    channel: Annotated[str, typer.Argument(help="The channel's name.")],
    folder: Annotated[
        Path, typer.Option("--dir", "-d", help="Where to save; it is made if it is missing.", file_okay=False)
    ] = Path("clips"),
    keep: Annotated[int, typer.Option(min=1, help="Older clips than so many are deleted.")] = 100,
    once: Annotated[bool, typer.Option("--once", help="Save what is there and end.")] = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Save a channel's clips as they come, and the newest as current.mp4, until Ctrl-C."""
    with answering(as_json=False) as output, studio_at(url) as studio:
        folder.mkdir(parents=True, exist_ok=True)
        followed = FollowedFolder(folder, channel, keep)
        if once:
            while save_new(studio, followed, output).more:
                pass
            return
        output.info(f"following {channel} into {folder}; Ctrl-C ends")
        follow_for_ever(lambda: save_new(studio, followed, output), output)


def follow_for_ever(look: Callable[[], ChannelClips], output: Output) -> None:
    """Look again and again; a server that does not answer only makes the pauses longer."""
    failing = pause_s = 0.0
    while True:
        try:
            page = look()
        except RefusedError:
            raise
        except StudioError as error:
            if not failing:
                output.info(f"{error}; trying again")
            pause_s = failing = min(LONGEST_PAUSE_S, max(LOOK_EVERY_S, 2 * failing))
        else:
            failing = 0.0
            pause_s = 0.0 if page.more else LOOK_WHILE_DRAWING_S if page.upcoming else LOOK_EVERY_S
        time.sleep(pause_s)


def save_new(studio: StudioClient, followed: FollowedFolder, output: Output) -> ChannelClips:
    """Save the channel's next clips; return the answer that named them."""
    page = studio.channel_clips(followed.state.channel, followed.state.after)
    for entry in page.clips:
        path = followed.path_of(entry)
        if path.name in followed.state.files:
            continue  # a server may name a clip twice
        try:
            studio.download(entry.clip, path)
        except ClipGoneError as error:
            output.info(f"left out: {error}")
            continue
        followed.add(path)
        output.info(f"saved {path}: {entry.prompt}")
    followed.go_on_after(page.next_after)
    return page


class _State(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    channel: str
    after: int | None = None
    files: tuple[str, ...] = ()
    """Names of the clips in the folder, oldest first."""


class FollowedFolder:
    """The folder of one channel."""

    def __init__(self, folder: Path, channel: str, keep: int) -> None:
        self._folder, self._keep = folder, keep
        self.state = self._read(channel)

    def _read(self, channel: str) -> _State:
        path = self._folder / STATE
        try:
            state = _State.model_validate_json(path.read_bytes())
        except (
            FileNotFoundError,
            ValueError,
        ):  # a damaged one is begun anew: clips are saved again, none is lost
            return _State(channel=channel)
        if state.channel != channel:
            raise typer.BadParameter(
                f"{self._folder} follows another channel; choose another folder, or delete {path}",
                param_hint="--dir",
            )
        return state

    def path_of(self, entry: ChannelClip) -> Path:
        """Return the file of a clip: its name sorts by the time at which the clip was ready."""
        return self._folder / f"{entry.finished_at:%Y%m%d-%H%M%S}-{entry.clip.clip_id[2:10]}.mp4"

    def add(self, path: Path) -> None:
        """Make the saved clip the current one, and delete what is too old."""
        files = (*self.state.files, path.name)
        old, kept = files[: -self._keep], files[-self._keep :]
        self._replace(CURRENT, lambda partial: shutil.copyfile(path, partial))
        self._replace(PLAYLIST, lambda partial: partial.write_text("\n".join(("#EXTM3U", *kept, ""))))
        self._store(self.state.model_copy(update={"files": kept}))
        for name in old:
            (self._folder / name).unlink(missing_ok=True)

    def go_on_after(self, sequence: int) -> None:
        """Note where the next look begins."""
        if sequence != self.state.after:
            self._store(self.state.model_copy(update={"after": sequence}))

    def _store(self, state: _State) -> None:
        self._replace(STATE, lambda partial: partial.write_text(state.model_dump_json()))
        self.state = state

    def _replace(self, name: str, write: Callable[[Path], object]) -> None:
        """Write a file beside its place and rename it: whoever reads it finds the old or the new one, whole."""
        descriptor, partial = tempfile.mkstemp(dir=self._folder, prefix=f".{name}.", suffix=".part")
        os.close(descriptor)
        try:
            write(Path(partial))
            Path(partial).chmod(0o644)
            Path(partial).replace(self._folder / name)
        finally:
            Path(partial).unlink(missing_ok=True)
