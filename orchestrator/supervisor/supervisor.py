"""The supervisor's loop: signals, children, deadlines. One thread; no user code, no fork, no database call in it.

Everything it waits for is a file descriptor: the signals, each child's channel, the forkservers, the reports of the
database threads. What is due by time sets the timeout.
"""

import select
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from orchestrator.board.layout import ChildOrder
from orchestrator.exit_codes import ExitCode
from orchestrator.mailbox import (
    Activity,
    Audited,
    Begin,
    DeclaredDead,
    LeaseLost,
    Mailbox,
    Order,
    Registered,
    Release,
    Report,
    Serving,
    StartFailed,
    Types,
    WorkIsDue,
    Written,
)
from orchestrator.model import ClaimRef, TaskType
from orchestrator.retry import RetryPolicy
from orchestrator.supervisor import leftovers
from orchestrator.supervisor.children import Doom, Phase
from orchestrator.supervisor.farewell import Farewell
from orchestrator.supervisor.forkserver import Forkserver, Stage
from orchestrator.supervisor.forkservers import AppNews, Forkservers, News
from orchestrator.supervisor.pool import Pool, PoolSettings
from orchestrator.supervisor.signals import SignalInbox
from orchestrator.supervisor.slot_report import SlotReport
from orchestrator.supervisor.states import SERVING, SIGNALS, Action, Machine, State
from orchestrator.supervisor.watch import Watch
from orchestrator.telemetry import logs

IDLE_TICK_SECONDS = 1.0


class DatabaseSide(Protocol):
    """The database threads, as the loop sees them."""

    def start(self) -> None: ...

    def post(self, order: Order) -> None: ...

    @property
    def outstanding(self) -> int:
        """Orders that the database has not taken yet."""
        ...

    def stop(self, *, within: float) -> None:
        """Sign off and end, in so many seconds at most."""
        ...


@dataclass(frozen=True, slots=True)
class SupervisorSettings:
    """What the loop needs to know. Durations in seconds, sizes in bytes (0: no limit)."""

    app: str
    pool_size: int
    shutdown_timeout: float
    task_memory_limit: int
    pool: PoolSettings


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """How the pool is, for /health and /metrics; made by the loop, read by other threads."""

    state: str
    is_paused: bool
    capacity: int
    ready: int
    active: int
    backing_off: int
    types: tuple[str, ...]
    turned_at: float


@dataclass(frozen=True, slots=True)
class Listeners:
    """Who is told what: metrics, mostly."""

    on_types: Callable[[tuple[TaskType, ...]], None]
    on_restart: Callable[[int, str], None]
    on_reload: Callable[[bool], None]
    on_ready: Callable[[], None]


class Supervisor:
    """One worker's parent process. `run` returns the exit code once nothing of it is left."""

    def __init__(
        self,
        settings: SupervisorSettings,
        *,
        signals: SignalInbox,
        database: DatabaseSide,
        reports: Mailbox[Report],
        start_forkserver: Callable[[int], Forkserver],
        listeners: Listeners,
    ) -> None:
        self._settings = settings
        self._database = database
        self._reports = reports
        self._listeners = listeners
        self._machine = Machine()
        self._signals = signals
        self._policies: dict[str, RetryPolicy] = {}
        self._types: tuple[TaskType, ...] = ()
        self._pool = Pool(
            settings.pool, settings.pool_size, post=database.post, policy=self._policy, on_restart=listeners.on_restart
        )
        self._watch = Watch(self._pool, post=database.post, memory_limit=settings.task_memory_limit)
        self._slot_report = SlotReport(self._pool)
        self._forkservers = Forkservers(start_forkserver)
        self._farewell = Farewell(self._pool, database, self._forkservers)
        self._activity: Activity | None = None
        self._is_registered = False
        self._has_begun = False
        self._is_rolling = False
        self._is_ready = False
        self._log = logs.get("supervisor")
        self.status = self._status(time.monotonic())

    def run(self) -> ExitCode:
        """Live: start, serve, drain, end."""
        try:
            leftovers.kill_of_dead_workers(self._settings.pool.worker_id)
            self._forkservers.begin()
            self._database.start()
            while self._machine.state is not State.STOPPING:
                self._turn()
            return self._farewell.exit_code
        finally:
            self._farewell.end()

    def _turn(self) -> None:
        """Wait for something, then do all that is due."""
        self._wait()
        now = time.monotonic()
        for received in self._signals.take():
            if received in SIGNALS:
                self._react(self._machine.reaction(received), received.name, now)
        self._hear(now)
        for pid, status in self._pool.reap(now):
            self._forkserver_reaped(pid, status, now)
        for report in self._reports.take():
            self._take(report, now)
        if self._pool.check_deadlines(now):
            self._forkservers.end_hung()
        self._watch.look(now)
        self._slot_report.proceed(now)
        if self._machine.state in (State.STARTING, *SERVING):
            self._forkservers.keep(now)
        if self._machine.is_serving:
            self._keep_children(now)
        if self._machine.state is State.DRAINING and self._farewell.is_over(now):
            self._machine.step(State.STOPPING)
        self._tell_activity()
        self.status = self._status(now)

    def _wait(self) -> None:
        poll = select.poll()
        for descriptor in (self._signals.fileno(), self._reports.fileno()):
            poll.register(descriptor, select.POLLIN)
        for forkserver in self._forkservers.open():
            poll.register(forkserver.fileno(), select.POLLIN)
        for link in self._pool.links.values():
            if not link.is_cut:
                poll.register(link.channel.fileno(), select.POLLIN)
        poll.poll(int(self._patience() * 1000) + 1)

    def _patience(self) -> float:
        """Seconds until something is due by time alone."""
        now = time.monotonic()
        waits = [IDLE_TICK_SECONDS]
        look = self._watch.next_look(now)
        if look is not None:
            waits.append(look)
        if self._slot_report.is_asking or self._machine.state is State.DRAINING or self._is_rolling:
            waits.append(0.02)
        dues = [self._forkservers.next_due(), self._pool.children.next_due() if self._machine.is_serving else None]
        waits += [due - now for due in dues if due is not None and self._machine.state is not State.DRAINING]
        return max(0.0, min(waits))

    # Signals

    def _react(self, action: Action, signal_name: str, now: float) -> None:
        if action is not Action.IGNORE:
            self._log.info("signal_received", signal=signal_name, state=self._machine.state.value, action=action.value)
        match action:
            case Action.LEAVE:
                self._machine.step(State.STOPPING)
            case Action.DRAIN:
                self._drain(now, self._settings.shutdown_timeout)
            case Action.STOP:
                self._stop(now)
            case Action.RELOAD:
                self._machine.step(State.RELOADING)
                self._forkservers.reload()
            case Action.REMEMBER_RELOAD:
                self._machine.wants_reload = True
            case Action.GROW:
                self._pool.children.grow()
            case Action.SHRINK:
                self._shrink()
            case Action.REPORT:
                self._slot_report.begin(now)
            case Action.PAUSE_OR_RESUME:
                self._pause_or_resume()
            case Action.IGNORE:
                pass

    def _drain(self, now: float, seconds: float) -> None:
        self._machine.step(State.DRAINING)
        self._log.info("drain_started", running=self._pool.active(), seconds=seconds)
        self._farewell.begin(now, seconds)

    def _stop(self, now: float) -> None:
        if self._machine.state is not State.DRAINING:
            self._drain(now, 0.0)
        self._farewell.hurry(now)

    def _shrink(self) -> None:
        seat = self._pool.children.shrink()
        if seat is not None:
            self._pool.retire(seat)

    def _pause_or_resume(self) -> None:
        machine = self._machine
        machine.is_paused = not machine.is_paused
        if machine.is_paused:
            self._log.warning("claiming_paused", until="SIGUSR2 again, or a restart")
        else:
            self._log.warning("claiming_resumed")
        self._pool.order_all(ChildOrder.PAUSE if machine.is_paused else ChildOrder.WORK)
        if machine.state in (State.RUNNING, State.PAUSED):
            machine.settle()

    # The app

    def _hear(self, now: float) -> None:
        news, failed = self._forkservers.hear(now)
        for each in news:
            self._app_news(each)
        for fork in failed:
            self._pool.fork_failed(fork.slot, fork.incarnation, fork.reason, now)
        for number in list(self._pool.links):
            self._pool.hear(number, now)

    def _forkserver_reaped(self, pid: int, status: int, now: float) -> None:
        generation, news = self._forkservers.reaped(pid, status, now)
        if generation is not None:
            self._pool.forkserver_died(generation, now)
        if news is not None and self._machine.state is not State.STOPPING:
            self._app_news(news)

    def _app_news(self, news: AppNews) -> None:
        if news.news is News.REFUSED:
            self._fail(ExitCode.APP, news.reason)
        elif news.news is News.RELOAD_REFUSED:
            self._log.error("app_reload_failed", reason=news.reason, then="the old code goes on")
            self._listeners.on_reload(False)
            self._end_reload()
        else:
            self._learn_types(news.types)
            if news.news is News.RELOADED:
                self._log.info("app_reloaded", types=len(news.types))
                self._listeners.on_reload(True)
                self._is_rolling = True
                self._end_reload()
            self._begin_if_possible()

    def _end_reload(self) -> None:
        if self._machine.state is State.RELOADING:
            self._machine.settle()
        if self._machine.wants_reload and self._machine.is_serving:
            self._machine.wants_reload = False
            self._machine.step(State.RELOADING)
            self._forkservers.reload()

    def _learn_types(self, types: tuple[TaskType, ...]) -> None:
        self._types = types
        self._policies = {
            each.name: RetryPolicy(base=each.retry_base_seconds, cap=each.retry_cap_seconds) for each in types
        }
        self._listeners.on_types(types)
        if self._has_begun:
            self._database.post(Types(types, self._settings.app))

    def _policy(self, type_name: str) -> RetryPolicy:
        return self._policies.get(type_name) or RetryPolicy()

    def _fail(self, code: ExitCode, message: str) -> None:
        """The start cannot succeed."""
        self._log.error("start_failed", exit_code=int(code), reason=message)
        self._farewell.exit_code = code
        self._machine.step(State.STOPPING)

    # The database side

    def _begin_if_possible(self) -> None:
        current = self._forkservers.current
        if self._is_registered and not self._has_begun and current is not None and current.stage is Stage.READY:
            self._has_begun = True
            self._database.post(Begin(current.types, self._settings.app))

    def _take(self, report: Report, now: float) -> None:
        if self._machine.state is State.STOPPING:
            return
        match report:
            case Registered():
                self._is_registered = True
                self._pool.settings.worker_id = report.worker_id
                self._begin_if_possible()
            case StartFailed():
                self._fail(ExitCode(report.exit_code), report.message)
            case Serving():
                self._serve()
            case WorkIsDue():
                self._pool.wake_one()
            case Written():
                self._pool.written(report.tokens)
            case Audited():
                self._judge_claims(report)
            case LeaseLost():
                self._lease_lost(report, now)
            case DeclaredDead():
                self._declared_dead(report, now)

    def _serve(self) -> None:
        if self._machine.state is State.STARTING:
            self._machine.settle()
            self._end_reload()

    def _judge_claims(self, audited: Audited) -> None:
        """Claims that the database shows and no board knows: replies that were lost. They are handed back."""
        ghosts = tuple(
            ClaimRef(claim.task_id, claim.token)
            for claim in audited.claims
            if not self._pool.knows(claim.slot, claim.token)
        )
        if ghosts:
            self._log.info("unknown_claims_released", count=len(ghosts))
            self._database.post(Release(ghosts, "unknown_claim"))

    def _lease_lost(self, report: LeaseLost, now: float) -> None:
        self._log.error("lease_lost", holder=report.holder, then="drain and exit")
        self._farewell.exit_code = ExitCode.OTHER_INSTANCE
        if self._machine.is_serving:
            self._drain(now, self._settings.shutdown_timeout)
        elif self._machine.state is State.STARTING:
            self._machine.step(State.STOPPING)

    def _declared_dead(self, report: DeclaredDead, now: float) -> None:
        """Others run our tasks by now: ours end at once, and what they bring is refused."""
        self._log.error("declared_dead", new_worker_id=report.worker_id, then="kill what runs and go on")
        self._pool.kill_all(Doom.DRAIN, "its worker was declared dead", now)
        self._pool.settings.worker_id = report.worker_id

    # Every turn

    def _keep_children(self, now: float) -> None:
        current = self._forkservers.current
        if current is not None:
            self._pool.fork_due(current, now)
            if self._is_rolling:
                self._is_rolling = self._pool.roll(current.generation)
        if not self._is_ready and all(seat.phase is Phase.LIVE for seat in self._pool.children):
            self._is_ready = True
            self._listeners.on_ready()

    def _tell_activity(self) -> None:
        """Whether inserts shall notify, and whether anything shall be promoted for us."""
        activity = Activity(
            has_sleepers=self._machine.is_serving and self._pool.has_sleepers(),
            is_claiming=self._machine.is_serving and not self._machine.is_paused,
        )
        if activity != self._activity and self._has_begun:
            self._activity = activity
            self._database.post(activity)

    def _status(self, now: float) -> PoolStatus:
        children = self._pool.children
        return PoolStatus(
            state=self._machine.state.value,
            is_paused=self._machine.is_paused,
            capacity=children.capacity,
            ready=len(children.in_phase(Phase.LIVE)),
            active=self._pool.active(),
            backing_off=children.backing_off(now),
            types=tuple(each.name for each in self._types),
            turned_at=now,
        )
