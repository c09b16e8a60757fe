"""A forkserver as the settings want it: the one of `start`, and the one with which `check` tries the app."""

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from typing import NamedTuple

from orchestrator.board.birth import ChildSettings, ForkserverOrders
from orchestrator.board.kernel import resident_bytes, why_not_started
from orchestrator.board.layout import MAX_CLAIMS
from orchestrator.config import Settings
from orchestrator.errors import AppError
from orchestrator.model import PeriodicTask
from orchestrator.setting_kinds import size
from orchestrator.supervisor import leftovers
from orchestrator.supervisor.forkserver import Forkserver, Stage
from orchestrator.supervisor.forkservers import LAST_SECONDS, why_it_cannot_serve
from orchestrator.telemetry.directory import VARIABLE as METRICS_VARIABLE
from orchestrator.telemetry.directory import MetricsDirectory

CHILD_MAIN = "orchestrator.child.main:run"
CLAIMS_PER_CHILD = 10
"""A claim takes at most this × WORKER_POOL_SIZE tasks: the guide's cure for slow claims is a smaller pool."""

_STDERR = 2


class TriedApp(NamedTuple):
    """An app that can serve these types, and what it wants done periodically; what forking might break, and a limit too
    small, is told in `doubts`."""

    types: tuple[str, ...]
    periodic: tuple[PeriodicTask, ...]
    doubts: tuple[str, ...]


def start_forkserver(
    settings: Settings, generation: int, metrics_path: str, *, stdout: int | None = None
) -> Forkserver:
    """Errors as Forkserver's. `metrics_path` is the folder of this process's metrics."""
    child = ChildSettings(
        database_url=settings.database_url,
        pool_size=settings.pool_size,
        claim_limit=min(MAX_CLAIMS, CLAIMS_PER_CHILD * settings.pool_size),
        task_timeout=settings.task_timeout,
        task_kill_grace=settings.task_kill_grace,
        max_tasks_per_child=settings.max_tasks_per_child,
        max_child_memory=settings.max_child_memory,
        max_result_size=settings.max_result_size,
        debug=settings.debug,
        log_format=settings.log_format,
    )
    orders = ForkserverOrders(
        supervisor_pid=os.getpid(),
        app=settings.app,
        with_examples=settings.enqueue_examples,
        child_main=CHILD_MAIN,
        may_have_threads=settings.fork_safety == "warn",
        metrics_path=metrics_path,
        child=child,
    )
    # what handlers enqueue with is what the worker works on, whether it was given as a variable or as a flag
    environment = {**os.environ, "DATABASE_URL": settings.database_url}
    environment.pop(METRICS_VARIABLE, None)  # programs that tasks run would count into our folder, by pid
    return Forkserver(generation, orders, environment, stdout=stdout)


def try_app(settings: Settings) -> TriedApp:
    """Import it as `start` would, in a process of its own, whose end or hang is not ours; it forks nobody.

    AppError: it cannot serve. What it prints goes to standard error.
    """
    metrics = MetricsDirectory.open(None, f"check-{os.getpid()}")
    try:
        with _ended_as_by_ctrl_c():
            forkserver = start_forkserver(settings, 0, metrics.path, stdout=_STDERR)
            is_dead, used = _import_in(forkserver)
    except OSError as error:
        raise AppError(f"no process could be started to import it: {why_not_started(error)}") from error
    finally:
        metrics.close()
    if forkserver.reason or is_dead:
        raise AppError(why_it_cannot_serve(forkserver))
    doubt = memory_doubt(settings, used)
    doubts = (*forkserver.doubts, *([doubt] if doubt else []))
    return TriedApp(tuple(each.name for each in forkserver.types), forkserver.periodic, doubts)


def memory_doubt(settings: Settings, used: int) -> str | None:
    """Why every task would be killed, if so: a child begins with the `used` bytes that the app takes."""
    limit = settings.task_memory_limit
    if not limit or used <= limit:
        return None
    exceeded = f"TASK_MEMORY_LIMIT ({size(limit)})"
    return f"the app itself takes {used >> 20}MB, more than {exceeded}: every task would be killed"


@contextlib.contextmanager
def _ended_as_by_ctrl_c() -> Iterator[None]:
    """TERM (a `timeout` around the command) and HUP raise KeyboardInterrupt meanwhile: else what the app has started
    would outlive this process."""
    changed = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is signal.SIG_DFL]
    for each in changed:
        signal.signal(each, signal.default_int_handler)
    try:
        yield
    finally:
        for each in changed:
            signal.signal(each, signal.SIG_DFL)


def _import_in(forkserver: Forkserver) -> tuple[bool, int]:
    """Whether it ended before it was told to, and the bytes of memory that it had by then. What its app has forked may
    hold its end of the socket open (an app that makes itself a daemon): so the process itself is asked. What the app
    has started goes with it."""
    process = os.pidfd_open(forkserver.pid)
    has_ended = False
    try:
        while forkserver.stage is Stage.IMPORTING and not has_ended:
            has_ended = process in select.select((forkserver.fileno(), process), (), ())[0]
            forkserver.receive()
        is_dead = has_ended or forkserver.stage is Stage.DEAD
        used = resident_bytes(forkserver.pid)
    except BaseException:
        forkserver.kill()
        raise
    finally:
        forkserver.close()  # it leaves when it reads that, save one that closed its end and goes on with its import
        if not select.select((process,), (), (), LAST_SECONDS)[0]:
            forkserver.kill()
        os.waitid(os.P_PID, forkserver.pid, os.WEXITED | os.WNOWAIT)
        leftovers.kill_orphans_of(forkserver.pid, forkserver.marker)
        _, status = os.waitpid(forkserver.pid, 0)
        forkserver.was_reaped(status)
        os.close(process)
    return is_dead, used
