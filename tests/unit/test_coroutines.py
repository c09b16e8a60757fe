"""The event loop that a child's coroutines share: what one of them leaves there does not run in the next."""

import asyncio
import contextlib
import gc
import time
import timeit
import warnings
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextvars import copy_context
from typing import Any

import pytest

from orchestrator.child.coroutines import Coroutines
from orchestrator.child.forks import Origin
from orchestrator.errors import TaskTimeout
from orchestrator.failure import describe_exception


@pytest.fixture
def coroutines() -> Iterator[Coroutines]:
    coroutines = Coroutines(Origin())
    yield coroutines
    coroutines._lose_loop()


def run(coroutines: Coroutines, coroutine: Coroutine[Any, Any, Any]) -> Any:
    return coroutines.run(coroutine, copy_context(), 60.0, time.monotonic_ns())


async def loop_that_sleeps(seconds: float = 0.0) -> asyncio.AbstractEventLoop:
    await asyncio.sleep(seconds)
    return asyncio.get_running_loop()


async def count_tasks() -> int:
    return len(asyncio.all_tasks())


def end() -> None:
    raise SystemExit("from another task's callback")


@pytest.mark.parametrize("error", [ValueError(), SystemExit(), asyncio.CancelledError(), TimeoutError()], ids=repr)
def test_the_loop_outlives_a_coroutine_that_raises_and_nothing_else_of_it_does(
    coroutines: Coroutines, error: BaseException
) -> None:
    left = []

    async def fail() -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(0.02, end)
        left.append(loop.create_task(asyncio.sleep(60)))
        raise error

    loop = run(coroutines, loop_that_sleeps())
    with pytest.raises(type(error)):
        run(coroutines, fail())
    assert run(coroutines, loop_that_sleeps(0.05)) is loop
    assert left[0].cancelled()
    assert coroutines.lost_loop is None


def test_the_loop_outlives_a_coroutine_whose_time_is_up(coroutines: Coroutines) -> None:
    loop = run(coroutines, loop_that_sleeps())
    with pytest.raises(TaskTimeout):
        coroutines.run(asyncio.sleep(60), copy_context(), 0.01, time.monotonic_ns())
    assert run(coroutines, loop_that_sleeps()) is loop


def test_the_error_tells_where_a_coroutine_was_when_its_time_was_up(coroutines: Coroutines) -> None:
    async def wait_for_reply() -> None:
        await asyncio.sleep(60)

    async def handler() -> None:
        await wait_for_reply()

    with pytest.raises(TaskTimeout) as raised:
        coroutines.run(handler(), copy_context(), 0.01, time.monotonic_ns())
    told = [line.rpartition(".")[2] for line in describe_exception(raised.value).splitlines() if " in " in line]
    assert told[-2:] == ["handler", "wait_for_reply"]


def test_a_loop_that_was_stopped_is_lost(coroutines: Coroutines) -> None:
    async def stop() -> None:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(60)

    with pytest.raises(RuntimeError):
        run(coroutines, stop())
    assert coroutines.lost_loop == "the event loop was stopped"


@pytest.mark.parametrize("leave", ["task", "generator"])
def test_what_outlives_its_cancellation_costs_the_loop_and_not_the_result(
    coroutines: Coroutines, monkeypatch: pytest.MonkeyPatch, leave: str
) -> None:
    monkeypatch.setattr("orchestrator.child.coroutines.LEAVING_SECONDS", 0.05)
    left: set[asyncio.Task[Any]] = set()
    is_over = False

    def current() -> asyncio.Task[Any]:
        task = asyncio.current_task()
        assert task is not None
        return task

    async def go_on() -> None:
        left.add(current())
        while not is_over:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                continue

    async def pages() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await go_on()

    async def read_one() -> str:
        if leave == "task":
            left.add(asyncio.create_task(go_on()))
        else:
            async for _ in pages():
                break
        await asyncio.sleep(0)
        return "read"

    loop = run(coroutines, loop_that_sleeps())
    assert run(coroutines, read_one()) == "read"
    assert coroutines.lost_loop is not None
    assert coroutines.lost_loop.startswith("asyncio tasks go on though they were cancelled (")
    assert "go_on" in coroutines.lost_loop or leave == "generator"
    assert run(coroutines, loop_that_sleeps()) is not loop

    is_over = True
    for each in left:
        each.cancel()
    loop.run_until_complete(asyncio.wait(left))
    loop.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # its coroutine never ends
def test_a_stopped_loop_whose_coroutine_outlives_its_cancellation_is_not_waited_for(
    coroutines: Coroutines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.child.coroutines.LEAVING_SECONDS", 0.05)

    async def go_on() -> None:
        asyncio.get_running_loop().stop()
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)

    with pytest.raises(RuntimeError, match="Event loop stopped"):
        run(coroutines, go_on())
    assert coroutines.lost_loop == "the event loop was stopped"
    gc.collect()


def test_a_plain_function_that_closes_the_current_loop_does_not_close_this_one(coroutines: Coroutines) -> None:
    loop = run(coroutines, loop_that_sleeps())
    try:
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # where there is no current one
            current = asyncio.get_event_loop()
    except RuntimeError:  # nor will there be, from Python 3.14 on
        return
    current.run_until_complete(asyncio.sleep(0))
    current.close()
    asyncio.set_event_loop(None)
    assert run(coroutines, loop_that_sleeps()) is loop


def test_a_timer_that_a_coroutine_leaves_does_not_fire_in_the_next(coroutines: Coroutines) -> None:
    async def leave_timer() -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        loop.call_later(0.02, end)
        return loop

    loop = run(coroutines, leave_timer())
    assert run(coroutines, loop_that_sleeps(0.05)) is loop, "connections that belong to it can still be used"


def test_a_callback_that_asks_to_be_called_again_and_again_does_not_go_on_in_the_next(coroutines: Coroutines) -> None:
    calls = []

    async def leave_callback() -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()

        def again() -> None:
            calls.append(1)
            loop.call_soon(again)

        again()
        return loop

    loop = run(coroutines, leave_callback())
    before = len(calls)
    assert run(coroutines, loop_that_sleeps()) is loop
    assert len(calls) == before


def test_what_follows_at_once_from_a_coroutine_is_its_own(coroutines: Coroutines) -> None:
    done = []

    async def close_in_steps() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: loop.call_soon(done.append, "told"))

    run(coroutines, close_in_steps())
    assert done == ["told"]

    async def end_in_steps() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: loop.call_soon(end))

    with pytest.raises(SystemExit):
        run(coroutines, end_in_steps())
    run(coroutines, loop_that_sleeps())


def test_a_generator_that_a_coroutine_gave_up_is_closed_before_the_next(coroutines: Coroutines) -> None:
    ended = []

    async def pages() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise

    async def read_one() -> None:
        async for _ in pages():
            break

    run(coroutines, read_one())
    assert ended == ["cancelled"]
    assert run(coroutines, count_tasks()) == 1


def test_a_coroutine_that_leaves_nothing_is_not_slowed_down(coroutines: Coroutines) -> None:
    loop = run(coroutines, loop_that_sleeps())
    runner = coroutines._runner
    assert runner is not None
    seconds = min(timeit.repeat(lambda: coroutines._clear(runner), number=100, repeat=20)) / 100
    assert seconds < 5e-6
    assert run(coroutines, loop_that_sleeps()) is loop
