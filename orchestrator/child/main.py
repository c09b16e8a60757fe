"""A child's boot and end. Called in a newborn child once the supervisor has said go; returns when it shall exit."""

import contextlib
import os
import random
import sys
import time
from types import CoroutineType

from setproctitle import setproctitle

from orchestrator.app import App, Hook
from orchestrator.app_loading import loaded_app
from orchestrator.board.birth import ChildContext
from orchestrator.board.channel import READY, Channel, Permits
from orchestrator.board.child_half import ChildBoard
from orchestrator.board.layout import LeaveReason, SlotState
from orchestrator.child.answering import answer_with_stacks
from orchestrator.child.crowd import Crowd
from orchestrator.child.database import Database
from orchestrator.child.execution import Executor
from orchestrator.child.forks import Origin
from orchestrator.child.loop import Loop
from orchestrator.child.runner import Runner
from orchestrator.child.sanity import Sanity
from orchestrator.child.time_limit import TimeLimit
from orchestrator.errors import HandlerError
from orchestrator.exit_codes import ExitCode
from orchestrator.failure import describe_exception
from orchestrator.telemetry import logs
from orchestrator.telemetry.metrics import TaskMetrics


def run(context: ChildContext) -> None:
    """Boot, work, leave. If a start hook raises, the slot is tried again later, with a backoff."""
    slot = context.request.slot
    context.become(str(slot))
    setproctitle(f"orchestratord: child {slot} booting")
    logs.configure(debug=context.settings.debug, format=context.settings.log_format, process=f"child-{slot}")
    _seed()
    answer_with_stacks(context.stacks)
    board = ChildBoard(context.board)
    channel = Channel(context.channel)
    app = loaded_app()
    metrics = TaskMetrics()
    metrics.admit(app.types())
    origin = Origin()
    if not _is_started(app, origin):
        board.leave_because(LeaveReason.BOOT)
        os._exit(ExitCode.APP)
    loop = _composed(context, app, board, channel, origin, metrics)
    board.enter(SlotState.CONNECTING)  # before READY: from then on the supervisor asks since when
    channel.send(READY)
    reason = loop.run()
    board.leave_because(reason)
    _say_goodbye(app, origin)
    os._exit(0)


def _seed() -> None:
    """Random numbers of its own: those of the forkserver's generators would be every child's, one after the other."""
    random.seed()
    if (numpys := sys.modules.get("numpy.random")) is not None:
        with contextlib.suppress(Exception):  # the app may have put another generator there, which cannot be
            numpys.seed()


def _composed(
    context: ChildContext, app: App, board: ChildBoard, channel: Channel, origin: Origin, metrics: TaskMetrics
) -> Loop:
    """The child at work, and all that it works with. The start hooks have run: a healthy child is as they left it."""
    settings = context.settings
    time_limit = TimeLimit()  # a hook may have taken its signal
    database = Database(settings.database_url, f"orchestratord child {context.request.slot}", metrics.database_failed)
    own = context.board, context.permits, channel.fileno(), context.stacks
    sanity = Sanity(time_limit, own, database.descriptor)
    executor = Executor(
        app,
        time_limit,
        origin,
        default_timeout=settings.task_timeout,
        max_result_size=settings.max_result_size,
    )
    return Loop(
        context,
        board=board,
        permits=Permits(context.permits),
        channel=channel,
        database=database,
        crowd=Crowd(context.roster, context.request.slot),
        executor=executor,
        runner=Runner(context, board, executor, sanity),
        sanity=sanity,
        metrics=metrics,
    )


def _is_started(app: App, origin: Origin) -> bool:
    """Whether all start hooks ran. What comes after one that raises may need what that one opens."""
    return all(_ends_well(hook, "start_hook_failed", origin) for hook in app.start_hooks)


def _say_goodbye(app: App, origin: Origin) -> None:
    """The stop hooks, each in its own right."""
    for hook in app.stop_hooks:
        _ends_well(hook, "stop_hook_failed", origin)


def _ends_well(hook: Hook, event: str, origin: Origin) -> bool:
    """Run it. False, after it was told as `event`: it raised."""
    began = time.monotonic_ns()
    try:
        try:
            made = hook()
        finally:
            origin.end_forks(began)
        if hasattr(type(made), "__await__"):  # as of a plain function around an async def
            if isinstance(made, CoroutineType):
                made.close()
            raise HandlerError("it returned a coroutine, of which nothing has run: a hook is a plain function")
    except BaseException as error:  # noqa: BLE001 a border: user code
        name = getattr(hook, "__qualname__", repr(hook))
        logs.get("child").error(event, hook=name, error=describe_exception(error))
        return False
    return True
