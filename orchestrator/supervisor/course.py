"""What the supervisor makes of news: the app is loaded or refused, the database serves or does not, the lease is lost.

Decisions of the supervisor's loop, taken in its thread.
"""

from orchestrator.exit_codes import ExitCode
from orchestrator.mailbox import (
    Audited,
    Begin,
    DeclaredDead,
    LeaseLost,
    Registered,
    Release,
    Released,
    Report,
    Serving,
    StartFailed,
    Types,
    WorkIsDue,
    Written,
)
from orchestrator.model import ClaimRef, PeriodicTask, TaskType
from orchestrator.retry import RetryPolicy
from orchestrator.supervisor.children import Doom
from orchestrator.supervisor.farewell import Farewell
from orchestrator.supervisor.forkserver import Stage
from orchestrator.supervisor.forkservers import AppNews, Forkservers, News
from orchestrator.supervisor.pool import Pool
from orchestrator.supervisor.reaper import Reaper
from orchestrator.supervisor.states import Machine, State
from orchestrator.supervisor.surroundings import DatabaseSide, Listeners, SupervisorSettings
from orchestrator.telemetry import logs


class Course:
    """Where the worker goes from here."""

    def __init__(
        self,
        settings: SupervisorSettings,
        *,
        machine: Machine,
        pool: Pool,
        reaper: Reaper,
        forkservers: Forkservers,
        farewell: Farewell,
        database: DatabaseSide,
        listeners: Listeners,
    ) -> None:
        self._settings = settings
        self._machine = machine
        self._pool = pool
        self._reaper = reaper
        self._forkservers = forkservers
        self._farewell = farewell
        self._database = database
        self._listeners = listeners
        self._is_registered = False
        self.types: tuple[TaskType, ...] = ()
        self._periodic: tuple[PeriodicTask, ...] = ()
        self.has_begun = False
        self.is_rolling = False
        self._log = logs.get("supervisor")

    def drain(self, now: float, seconds: float) -> None:
        self._machine.step(State.DRAINING)
        self._log.info("drain_started", running=self._pool.active(), seconds=seconds)
        self._farewell.begin(now, seconds)

    def stop(self, now: float) -> None:
        if self._machine.state is not State.DRAINING:
            self.drain(now, 0.0)
        self._farewell.hurry(now)

    def app_news(self, news: AppNews) -> None:
        if news.news is News.REFUSED:
            self._fail(ExitCode.APP, news.reason)
        elif news.news is News.RELOAD_REFUSED:
            self._log.error("app_reload_failed", reason=news.reason, then="the old code goes on")
            self._listeners.on_reload(False)
            self.end_reload()
        else:
            self._learn(news.types, news.periodic)
            if news.news is News.RELOADED:
                self._log.info("app_reloaded", types=len(news.types))
                self._listeners.on_reload(True)
                self._pool.children.forget_failures()
                self.is_rolling = True
                self.end_reload()
            self._begin_if_possible()

    def end_reload(self) -> None:
        if self._machine.state is State.RELOADING:
            self._machine.settle()
        if self._machine.wants_reload and self._machine.is_serving:
            self._machine.wants_reload = False
            self._machine.step(State.RELOADING)
            self._forkservers.reload()

    def _learn(self, types: tuple[TaskType, ...], periodic: tuple[PeriodicTask, ...]) -> None:
        self.types, self._periodic = types, periodic
        self._pool.policies = {
            each.name: RetryPolicy(base=each.retry_base_seconds, cap=each.retry_cap_seconds) for each in types
        }
        self._listeners.on_types(types)
        if self.has_begun:
            self._database.post(Types(types, self._settings.app, periodic))

    def _fail(self, code: ExitCode, message: str) -> None:
        """The start cannot succeed."""
        self._log.error("start_failed", exit_code=int(code), reason=message)
        self._farewell.exit_code = code
        self._machine.step(State.STOPPING)

    def _begin_if_possible(self) -> None:
        current = self._forkservers.current
        if self._is_registered and not self.has_begun and current is not None and current.stage is Stage.READY:
            self.has_begun = True
            self._database.post(Begin(current.types, self._settings.app, current.periodic))

    def take(self, report: Report, now: float) -> None:
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
            case WorkIsDue(has_woken=False):
                self._pool.wakeups.wake()
            case Written():
                self._pool.outcomes.written(report)
            case Released(reason="slow_task"):
                self._pool.wakeups.can_be_claimed_again()
            case Audited():
                self._judge_claims(report)
            case LeaseLost():
                self._lease_lost(report, now)
            case DeclaredDead():
                self._declared_dead(report, now)

    def _serve(self) -> None:
        if self._machine.state is State.STARTING:
            self._machine.settle()
            self.end_reload()

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
            self.drain(now, self._settings.shutdown_timeout)
        elif self._machine.state is State.STARTING:
            self._machine.step(State.STOPPING)

    def _declared_dead(self, report: DeclaredDead, now: float) -> None:
        """Others run our tasks by now: ours end at once, and what they bring is refused. Or somebody has emptied the
        tables, and of our types nobody knows the limits any more."""
        self._log.error("declared_dead", new_worker_id=report.worker_id, then="kill what runs and go on")
        self._reaper.kill_all(Doom.DRAIN, "its worker was declared dead", now)
        self._pool.settings.worker_id = report.worker_id
        self._pool.children.forget_failures()  # of those that found themselves unregistered before we heard of it
        if self.has_begun:
            self._database.post(Types(self.types, self._settings.app, self._periodic, only_missing=True))
