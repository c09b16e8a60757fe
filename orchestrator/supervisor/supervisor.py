"""The supervisor's loop: signals, children, deadlines. One thread; no user code, no fork, no database call in it.

Everything it waits for is a file descriptor: the signals, each child's channel, the forkservers, the reports of the
database threads. What is due by time sets the timeout. Of a busy pool hundreds of messages a second say no more than
that there may be work: these are answered at once, and all else waits for the next round, which comes soon.
"""

import math
import time
from collections.abc import Callable, Sequence

from orchestrator.board.layout import ChildOrder
from orchestrator.exit_codes import ExitCode
from orchestrator.mailbox import Activity, Mailbox, Report, Sleeper, WorkIsDue, Written
from orchestrator.supervisor import leftovers
from orchestrator.supervisor.children import Phase
from orchestrator.supervisor.collector import Collector
from orchestrator.supervisor.course import Course
from orchestrator.supervisor.farewell import Farewell
from orchestrator.supervisor.forkserver import Forkserver
from orchestrator.supervisor.forkservers import AppNews, Forkservers
from orchestrator.supervisor.hearing import Hearing, Voice
from orchestrator.supervisor.pool import Pool
from orchestrator.supervisor.reaper import Reaper
from orchestrator.supervisor.rolling import roll
from orchestrator.supervisor.service_manager import ServiceManager
from orchestrator.supervisor.signals import SignalInbox
from orchestrator.supervisor.slot_report import SlotReport
from orchestrator.supervisor.states import SERVING, SIGNALS, Action, Machine, State
from orchestrator.supervisor.surroundings import DatabaseSide, Listeners, PoolStatus, SupervisorSettings
from orchestrator.supervisor.watch import Watch
from orchestrator.telemetry import logs

IDLE_TICK_SECONDS = 1.0

ROUND_SECONDS = 0.1
"""While the pool is busy, what is due by time is looked for so often: all but what the watch looks at."""


class Supervisor:
    """One worker's parent process. `run` returns the exit code once nothing of it is left."""

    def __init__(
        self,
        settings: SupervisorSettings,
        *,
        signals: SignalInbox,
        database: DatabaseSide,
        reports: Mailbox[Report],
        sleeper: Sleeper,
        start_forkserver: Callable[[int], Forkserver],
        listeners: Listeners,
        service_manager: ServiceManager | None = None,
    ) -> None:
        self._settings = settings
        self._database = database
        self._reports = reports
        self._listeners = listeners
        self._service_manager = service_manager
        self._machine = Machine()
        self._signals = signals
        self._pool = Pool(settings.pool, settings.pool_size, sleeper=sleeper, post=database.post, listeners=listeners)
        self._forkservers = Forkservers(start_forkserver)
        self._reaper = Reaper(self._pool, self._forkservers)
        self._watch = Watch(self._pool, self._reaper, settings, post=database.post)
        self._collector = Collector(self._pool, has_time=lambda: database.has_time)
        self._slot_report = SlotReport(self._pool)
        self._farewell = Farewell(self._pool, self._reaper, database, self._forkservers)
        self._activity: Activity | None = None
        self._hearing = Hearing()
        self._round_due = self._look_due = 0.0
        self._course = Course(
            settings,
            machine=self._machine,
            pool=self._pool,
            reaper=self._reaper,
            forkservers=self._forkservers,
            farewell=self._farewell,
            database=database,
            listeners=listeners,
        )
        self._is_ready = False
        self._log = logs.get("supervisor")
        self.status = self._status(time.monotonic())

    def run(self) -> ExitCode:
        """Live: start, serve, drain, end."""
        try:
            leftovers.kill_of_dead_workers(self._settings.pool.worker_id)
            self._forkservers.keep(time.monotonic())
            self._database.start()
            while self._machine.state is not State.STOPPING:
                self._turn()
            return self._farewell.exit_code
        finally:
            self._farewell.end()

    def _turn(self) -> None:
        """Wait for something, then do what it asks for."""
        speakers = self._hearing.wait(max(0.0, min(self._round_due, self._look_due) - time.monotonic()))
        now = time.monotonic()
        has_news = self._pool.hear([each for each in speakers if isinstance(each, int)], now)
        reports = self._reports.take() if Voice.DATABASE in speakers else []
        if (
            has_news
            or Voice.SIGNALS in speakers
            or Voice.FORKSERVER in speakers
            or not all(isinstance(each, WorkIsDue | Written) for each in reports)
            or now >= self._round_due
        ):
            self._round(reports, now)
        elif speakers:
            for report in reports:
                self._course.take(report, now)
            if speakers != [Voice.DATABASE] or not all(isinstance(each, Written) for each in reports):
                self._attend_sleepers()
            self._round_due = min(self._round_due, now + ROUND_SECONDS)
        self._collector.look(now)
        self._watch.look(now)
        looks = [look for look in (self._watch.next_look(now), self._collector.next_look(now)) if look is not None]
        self._look_due = now + min(looks, default=math.inf)

    def _round(self, reports: Sequence[Report], now: float) -> None:
        """Do all that is due."""
        for received in self._signals.take():
            if received in SIGNALS:
                self._react(self._machine.reaction(received), received.name, now)
        self._hear_forkservers(now)
        for pid, status in self._reaper.reap(now):
            self._forkserver_reaped(pid, status, now)
        for report in (*reports, *self._reports.take()):
            self._course.take(report, now)
        self._forkservers.end_hung(self._reaper.check_deadlines(now))
        self._forkservers.let_go(self._pool.markers)
        self._slot_report.proceed(now)
        if self._machine.state in (State.STARTING, *SERVING):
            self._forkservers.keep(now)
            self._forkservers.say_slow(self._settings.pool.boot_seconds, now)
        if self._machine.is_serving:
            self._keep_children(now)
        if self._machine.state is State.DRAINING and self._farewell.is_over(now):
            self._machine.step(State.STOPPING)
        self._attend_sleepers()
        has_come_up = self._comes_up()
        self.status = self._status(now)
        if has_come_up:
            self._listeners.on_ready()  # who hears of it may ask the pages: they say so by now
        if self._service_manager is not None:
            self._service_manager.turn(self.status, now)
        self._hearing.attend(self._speakers())
        self._round_due = time.monotonic() + self._patience()

    def _speakers(self) -> dict[int, Voice | int]:
        """Whom to listen to, by descriptor."""
        speakers: dict[int, Voice | int] = {
            self._signals.fileno(): Voice.SIGNALS,
            self._reports.fileno(): Voice.DATABASE,
        }
        speakers |= {each.fileno(): Voice.FORKSERVER for each in self._forkservers.open()}
        return speakers | {link.channel.fileno(): slot for slot, link in self._pool.links.items() if not link.is_cut}

    def _patience(self) -> float:
        """Seconds until something is due by time alone."""
        now = time.monotonic()
        waits = [IDLE_TICK_SECONDS if self._pool.is_quiet() else ROUND_SECONDS]
        if self._slot_report.is_asking or self._machine.state is State.DRAINING or self._course.is_rolling:
            waits.append(0.02)
        if self._service_manager is not None:
            waits.append(self._service_manager.next_due() - now)
        fork_due = self._pool.next_fork_due(self._forkservers.current) if self._machine.is_serving else None
        dues = [self._forkservers.next_due(), fork_due]
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
                self._course.drain(now, self._settings.shutdown_timeout)
            case Action.STOP:
                self._course.stop(now)
            case Action.RELOAD:
                self._machine.step(State.RELOADING)
                self._forkservers.reload()
            case Action.REMEMBER_RELOAD:
                self._machine.wants_reload = True
                self._forkservers.give_up_slow(self._settings.pool.boot_seconds, now)
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

    def _shrink(self) -> None:
        seat = self._pool.children.shrink()
        if seat is not None:
            self._pool.retire(seat)

    def _pause_or_resume(self) -> None:
        machine = self._machine
        machine.is_paused = not machine.is_paused
        self._pool.order_all(ChildOrder.PAUSE if machine.is_paused else ChildOrder.WORK)
        if machine.state in (State.RUNNING, State.PAUSED):
            machine.settle()
        if machine.is_paused:  # said once it is so: what is enqueued after that waits
            self._log.warning("claiming_paused", until="SIGUSR2 again, or a restart")
        else:
            self._log.warning("claiming_resumed")

    # The app

    def _hear_forkservers(self, now: float) -> None:
        news, failed = self._forkservers.hear(now)
        for each in news:
            self._app_news(each)
        for fork in failed:
            self._pool.fork_failed(fork.slot, fork.incarnation, fork.reason, now)
        self._pool.end_cut_births(now)

    def _forkserver_reaped(self, pid: int, status: int, now: float) -> None:
        marker, news = self._forkservers.reaped(pid, status, now)
        if marker is not None:
            self._pool.forkserver_died(marker, now)
        if news is not None:
            self._app_news(news)

    def _app_news(self, news: AppNews) -> None:
        if self._machine.state is not State.STOPPING:  # a signal of this very turn may have ended it all
            self._course.app_news(news)

    # Every turn

    def _keep_children(self, now: float) -> None:
        self._pool.note_work()
        current = self._forkservers.current
        if current is not None:
            self._pool.fork_due(current, now)
            if self._course.is_rolling:
                self._course.is_rolling = roll(self._pool, current.generation, now)

    def _comes_up(self) -> bool:
        """Whether every seat has had its child, for the first time."""
        if self._is_ready or not self._machine.is_serving or not self._pool.children.have_been_live:
            return False
        self._is_ready = True
        return True

    def _attend_sleepers(self) -> None:
        """After some may have fallen asleep or been woken: say whom a notification wakes, whether inserts shall notify,
        and whether anything shall be promoted for us."""
        self._pool.wakeups.offer_sleeper()
        activity = Activity(
            has_sleepers=self._machine.is_serving and self._pool.wakeups.has_sleepers(),
            is_claiming=self._machine.is_serving and not self._machine.is_paused,
        )
        if activity != self._activity and self._course.has_begun:
            self._activity = activity
            self._database.post(activity)

    def _status(self, now: float) -> PoolStatus:
        children = self._pool.children
        unconnected = self._pool.unconnected(now)
        is_app_lost = self._forkservers.cannot_serve(self._settings.pool.boot_seconds, now)
        return PoolStatus(
            state=self._machine.state.value,
            is_paused=self._machine.is_paused,
            is_ready=self._is_ready,
            capacity=children.capacity,
            ready=len(children.in_phase(Phase.LIVE)),
            settled=children.settled(now, unconnected),
            unconnected=len(unconnected),
            active=self._pool.active(),
            backing_off=children.backing_off(now, is_app_lost=is_app_lost),
            types=tuple(each.name for each in self._course.types),
            is_app_lost=is_app_lost,
            turned_at=now,
        )
