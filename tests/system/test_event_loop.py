"""Handlers that are coroutines, in the real daemon: what one of them leaves on the event loop, and what outlives it."""

from tests.fixtures.daemon import Queue, Start

ASYNC = """
import asyncio, os, time
from orchestrator import App

app = App()

@app.task("looks up", max_retries=0)
async def looks_up() -> int:
    await asyncio.get_running_loop().getaddrinfo("localhost", 80)
    await asyncio.gather(*(asyncio.to_thread(time.sleep, 0) for _ in range(3)))
    return os.getpid()

@app.task("runs programs", max_retries=0)
async def runs_programs() -> int:
    for _ in range(5):
        process = await asyncio.create_subprocess_exec("true")
        await process.wait()
    return os.getpid()

@app.task("leaves", max_retries=0)
async def leaves(is_failing: bool) -> int:
    asyncio.get_running_loop().run_in_executor(None, time.sleep, 600)
    await asyncio.sleep(0)
    if is_failing:
        raise ValueError("not waited for")
    return os.getpid()
"""


def test_the_threads_of_an_event_loop_cost_no_child_unless_they_are_left_busy(queue: Queue, daemon: Start) -> None:
    worker = daemon(ASYNC, "--pool-size", "1", DATABASE_URL=queue.url)
    (child,) = worker.children().values()
    for name in ("looks up", "runs programs"):
        pids = [queue.wait_status(queue.enqueue(name), "completed")["result"] for _ in range(5)]
        assert pids == [child] * 5, name

    assert queue.wait_status(queue.enqueue("leaves", {"is_failing": False}), "completed")["result"] == child
    after = queue.wait_status(queue.enqueue("looks up"), "completed")["result"]
    assert after != child, "its busy thread might do harm to the next task"
    assert "child_not_reusable" in worker.log()
    failed = queue.wait_status(queue.enqueue("leaves", {"is_failing": True}), "dead_letter")
    assert failed["last_error"].startswith("ValueError: not waited for")


CONNECTED = """
import asyncio, os
from orchestrator import App

app = App()
connected = None

@app.task("ask", max_retries=0)
async def ask(then: str = "answer") -> int:
    global connected
    if connected is None:
        mine, other = os.pipe()
        connected = asyncio.StreamReader(), other
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(connected[0]), os.fdopen(mine, "rb")
        )
    reader, other = connected
    os.write(other, b"hello\\n")
    assert await reader.readline() == b"hello\\n"
    if then == "raise":
        raise ValueError("it was asked to")
    if then == "stop":
        asyncio.get_running_loop().stop()
        await asyncio.sleep(60)
    return os.getpid()
"""


def test_what_a_coroutine_keeps_connected_outlives_one_that_fails_or_the_child_is_replaced(
    queue: Queue, daemon: Start
) -> None:
    worker = daemon(CONNECTED, "--pool-size", "1", DATABASE_URL=queue.url)
    (child,) = worker.children().values()
    for then in ("raise", "stop"):
        assert queue.wait_status(queue.enqueue("ask"), "completed", "dead_letter")["result"] == child
        failed = queue.wait_status(queue.enqueue("ask", {"then": then}), "dead_letter")
        assert failed["last_error"].startswith("ValueError: it was" if then == "raise" else "RuntimeError: Event loop")
    assert queue.wait_status(queue.enqueue("ask"), "completed", "dead_letter")["result"] not in (child, None)
    assert "child_not_reusable" in worker.log()
