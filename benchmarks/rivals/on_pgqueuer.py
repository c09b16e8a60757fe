"""pgqueuer: `fill URL COUNT` makes its tables and puts so many tasks in, `work URL` empties them and ends."""

import asyncio
import sys

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries
from pgqueuer.types import QueueExecutionMode

from benchmarks.rivals.stamps import stamp

BATCH = 100  # tasks a claim; its default is 10
_AT_ONCE = 5_000


async def fill(url: str, count: int) -> None:
    connection = await asyncpg.connect(url)
    queries = Queries(AsyncpgDriver(connection))
    await queries.install()
    for start in range(0, count, _AT_ONCE):
        several = min(_AT_ONCE, count - start)
        await queries.enqueue(["noop"] * several, [b'{"n": 1}'] * several, [0] * several)
    await connection.close()


async def work(url: str) -> None:
    queuer = PgQueuer(AsyncpgDriver(await asyncpg.connect(url)))

    @queuer.entrypoint("noop")
    async def noop(_: Job) -> None:
        stamp()

    await queuer.run(batch_size=BATCH, mode=QueueExecutionMode.drain)


if __name__ == "__main__":
    if sys.argv[1] == "fill":
        asyncio.run(fill(sys.argv[2], int(sys.argv[3])))
    else:
        uvloop.run(work(sys.argv[2]))
