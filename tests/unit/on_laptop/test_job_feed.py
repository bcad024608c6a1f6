"""One task polls for every follower, and only while there is one."""

import asyncio
from collections.abc import Sequence

from anime_studio.on_laptop.job_feed import Event, JobFeed
from support.jobs import new_job

JOB = new_job()
FOLLOWERS = 200


class EventSource:
    """Events that the test hands out; a query waits for the next batch."""

    def __init__(self) -> None:
        self.batches: asyncio.Queue[Sequence[Event]] = asyncio.Queue()
        self.queries = 0
        self.starts = 0

    async def newest_id(self) -> int:
        self.starts += 1
        return 0

    async def events_after(self, event_id: int) -> Sequence[Event]:
        self.queries += 1
        return await self.batches.get()


async def test_two_hundred_followers_cost_the_queries_of_one() -> None:
    source = EventSource()
    feed = JobFeed(source.newest_id, source.events_after)

    async def follow() -> object:
        async with feed.follow(JOB.job_id) as inbox:
            return await inbox.get()

    following = [asyncio.create_task(follow()) for _ in range(FOLLOWERS)]
    while feed.followers < FOLLOWERS:
        await asyncio.sleep(0)
    await source.batches.put([Event(1, JOB.job_id, JOB.model_dump_json())])
    assert await asyncio.gather(*following) == [JOB] * FOLLOWERS
    assert (source.starts, feed.followers) == (1, 0)
    assert source.queries <= 2  # the one that brought the event, and perhaps the next
    await feed.aclose()


async def test_polling_ends_with_the_last_follower_and_starts_with_the_next() -> None:
    source = EventSource()
    feed = JobFeed(source.newest_id, source.events_after)
    async with feed.follow(JOB.job_id):
        await source.batches.put([])
    while source.starts < 2:
        async with feed.follow(JOB.job_id):
            assert feed.followers == 1
            await source.batches.put([])  # should the first task still wait for a query, it ends
        await asyncio.sleep(0)
    await feed.aclose()
