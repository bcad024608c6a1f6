"""The end of what event streams leave behind.

sse_starlette starts one task in each event loop, which waits for uvicorn to stop. It ends with uvicorn; another ASGI server,
such as a container's on Modal, closes the loop over it, and asyncio logs an error.

Source: sse-starlette 3.7.0, `sse.py`, `_ensure_watcher_started_on_this_loop`.
"""

from __future__ import annotations

import asyncio
from typing import Final

_WATCHER: Final = "_shutdown_watcher"


async def end_watchers() -> None:
    """End those tasks of this event loop. Streams that come later start another one."""
    watchers = [task for task in asyncio.all_tasks() if _name(task) == _WATCHER]
    for task in watchers:
        task.cancel()
    await asyncio.gather(*watchers, return_exceptions=True)


def _name(task: asyncio.Task[object]) -> str:
    return getattr(task.get_coro(), "__qualname__", "")
