"""Procrastinate: `fill URL COUNT` makes its tables and puts so many tasks in, `work URL` empties them and ends."""

import asyncio
import sys

from procrastinate import App, PsycopgConnector

from benchmarks.rivals.stamps import stamp

CONCURRENCY = 20
"""Tasks at once in a process, each with a connection at hand."""
_AT_ONCE = 1_000

app = App(connector=PsycopgConnector(conninfo=sys.argv[2], min_size=1, max_size=CONCURRENCY))


@app.task(name="noop")
async def noop(n: int) -> None:
    stamp()


async def fill(count: int) -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        for start in range(0, count, _AT_ONCE):
            await noop.batch_defer_async(*[{"n": 1}] * min(_AT_ONCE, count - start))


async def work() -> None:
    async with app.open_async():
        await app.run_worker_async(concurrency=CONCURRENCY, wait=False, listen_notify=False)


if __name__ == "__main__":
    asyncio.run(fill(int(sys.argv[3])) if sys.argv[1] == "fill" else work())
