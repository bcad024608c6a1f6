"""The server process of the crash tests: the real one, with `crash_worker` as its worker."""

import sys
from pathlib import Path

from anime_studio.core.errors import AnimeStudioError
from anime_studio.on_laptop.server import serve
from anime_studio.settings import Settings

if __name__ == "__main__":
    try:
        serve(Settings(), worker_command=(sys.executable, str(Path(__file__).with_name("crash_worker.py"))))
    except AnimeStudioError as error:
        sys.exit(f"{error.code}: {error.detail}")
