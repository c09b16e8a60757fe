"""Which forkserver serves now, which is being tried, and which has died. Runs in the supervisor's loop."""

import os
from collections.abc import Callable, Collection
from enum import Enum
from typing import NamedTuple

from orchestrator.board.kernel import wait_channel, why_not_started
from orchestrator.exit_codes import ExitCode
from orchestrator.model import PeriodicTask, TaskType
from orchestrator.supervisor.attribution import describe_status
from orchestrator.supervisor.forkserver import Forkserver, NotForked, Stage
from orchestrator.supervisor.restarts import Backoff
from orchestrator.telemetry import logs

FIRST_IMPORT_TRIES = 3
"""An app whose first import ends its process so often (a crash in C, a kill for memory) cannot serve."""

LASTING_SECONDS = 10.0
"""One that dies and had served for so long is started again at once; else the backoff grows."""

LAST_SECONDS = 1.0
"""A forkserver that has closed its end of the socket has ended by then: the reason why is in its exit status."""

_AT_IMPORT = (
    "at import an app may neither leave its process (os._exit, os.exec, becoming a daemon) nor close descriptors that"
    " are not its own (os.closerange)"
)


class News(Enum):
    """What may become of an import."""

    READY = "ready"  # the first app is loaded, or a forkserver that died is back
    RELOADED = "reloaded"  # new code serves from now on
    REFUSED = "refused"  # the first app cannot serve
    RELOAD_REFUSED = "reload_refused"  # the new code cannot serve; the old goes on


class AppNews(NamedTuple):
    """One piece of news, with the types and periodic tasks of an app that serves or the reason of one that does not."""

    news: News
    types: tuple[TaskType, ...] = ()
    periodic: tuple[PeriodicTask, ...] = ()
    reason: str = ""


class Forkservers:
    """The current forkserver, and during a reload the next.

    One that is replaced stays until the last of its children has gone: what the app has started at import, and would
    perhaps end with its parent, is theirs. Then it is let go, and reaped.
    """

    def __init__(self, start: Callable[[int], Forkserver]) -> None:
        self._start = start
        self._generation = 0
        self._has_served = False
        self._first_tries = 0
        self._backoff = Backoff()
        self.current: Forkserver | None = None
        self._next: Forkserver | None = None
        self._given_up = ""  # why the next one could not even be started, or is no longer waited for
        self._retired: list[Forkserver] = []
        self._gone: list[Forkserver] = []
        self._log = logs.get("supervisor")

    def reload(self) -> None:
        """Start a second one, with the code as it is now; `hear` tells what becomes of it."""
        self._drop_next()
        try:
            self._next = self._start(self._generation + 1)
        except OSError as error:
            self._given_up = f"no forkserver could be started: {why_not_started(error)}"

    def give_up_slow(self, slow_seconds: float, now: float) -> None:
        """Another reload was asked for: if the import of this one takes so long, it is not waited for."""
        if self._next is not None and self._next.stage is Stage.IMPORTING and now - self._next.since > slow_seconds:
            self._given_up = f"the import had not ended after {now - self._next.since:.0f} s, at the next reload"
            self._drop_next()

    def say_slow(self, slow_seconds: float, now: float) -> None:
        """Of an import that takes so long, say so each time that so long is over, and have it say where it is."""
        for each in self._all():
            if each.stage is Stage.IMPORTING and now - each.called_slow_at > slow_seconds:
                each.called_slow_at = now
                waits = wait_channel(each.pid)
                self._log.warning("app_import_slow", pid=each.pid, seconds=round(now - each.since), kernel=waits)
                each.ask_for_stack()

    def open(self) -> list[Forkserver]:
        """Those to listen to: what has closed its end would be heard of without end."""
        return [each for each in self._all() if each.silent_since is None]

    def hear(self, now: float) -> tuple[list[AppNews], list[NotForked]]:
        """Take what they say."""
        news: list[AppNews] = []
        failed = [fork for retired in self._retired for fork in retired.receive()]
        if self.current is not None:
            before = self.current.stage
            failed += self.current.receive()
            if self.current.stage is Stage.READY and before is Stage.IMPORTING:
                self._has_served = True
                self._say_doubts(self.current)
                news.append(AppNews(News.READY, self.current.types, self.current.periodic))
            elif self.current.stage is Stage.REFUSED:
                news += self._current_refused(now)
        if self._next is not None:
            self._next.receive()
            news += self._judge_next()
        if self._given_up:
            news.append(AppNews(News.RELOAD_REFUSED, reason=self._given_up))
            self._given_up = ""
        return news, failed

    def _current_refused(self, now: float) -> list[AppNews]:
        """The app that serves, or should, cannot be imported (again)."""
        if self.current is None or not self._has_served:
            return [AppNews(News.REFUSED, reason=self.current.reason if self.current is not None else "")]
        self._log.error("app_not_loaded", reason=self.current.reason, then="the children that run go on")
        self._let_go(self.current)
        self.current = None
        self._backoff.failed(now)
        return []

    def _judge_next(self) -> list[AppNews]:
        tried = self._next
        if tried is None or tried.stage is Stage.IMPORTING or (tried.stage is Stage.DEAD and not tried.is_reaped):
            return []
        self._next = None
        if tried.stage is not Stage.READY:
            self._let_go(tried)
            return [AppNews(News.RELOAD_REFUSED, reason=why_it_cannot_serve(tried))]
        self._generation = tried.generation
        self._backoff.succeeded()
        if self.current is not None:
            self._retired.append(self.current)
        self.current = tried
        self._say_doubts(tried)
        return [AppNews(News.RELOADED, tried.types, tried.periodic)]

    def _say_doubts(self, forkserver: Forkserver) -> None:
        for doubt in forkserver.doubts:
            self._log.warning("fork_safety", found=doubt)

    def reaped(self, pid: int, status: int, now: float) -> tuple[str | None, AppNews | None]:
        """A process that is no child of the pool was reaped. Returns the marker of a forkserver that died, and the news
        if that was an import."""
        for gone in list(self._gone):
            if gone.pid == pid:
                gone.was_reaped(status)
                self._gone.remove(gone)
        for retired in list(self._retired):
            if retired.pid == pid:
                retired.was_reaped(status)
                retired.close()
                self._retired.remove(retired)
                return retired.marker, None
        if self._next is not None and self._next.pid == pid:
            self._next.receive()  # its last words may say why
            self._next.was_reaped(status)
            return None, next(iter(self._judge_next()), None)
        if self.current is None or self.current.pid != pid:
            return None, None
        dead = self.current
        dead.receive()
        dead.was_reaped(status)
        dead.close()
        self.current = None
        self._first_tries += 1
        if not self._has_served and (dead.reason or self._first_tries >= FIRST_IMPORT_TRIES):
            return dead.marker, AppNews(News.REFUSED, reason=why_it_cannot_serve(dead))
        if dead.ready_since is not None and now - dead.ready_since > LASTING_SECONDS:
            self._backoff.succeeded()
        wait = self._backoff.failed(now)
        self._log.warning("forkserver_died", pid=pid, cause=describe_end(status), restart_in=wait)
        return dead.marker, None

    def keep(self, now: float) -> None:
        """Start one if there is none: the first, and again one whose backoff is over. End those that cannot be told
        anything any more: their app closed every descriptor, and goes on with its import."""
        for each in self._all():
            if each.silent_since is not None and now - each.silent_since > LAST_SECONDS:
                each.kill()
        if self.current is None and self._next is None and self._backoff.is_due(now):
            try:
                self.current = self._start(self._generation)
            except OSError as error:
                wait = self._backoff.failed(now)
                self._log.error("forkserver_not_started", error=why_not_started(error), restart_in=wait)

    def cannot_serve(self, slow_seconds: float, now: float) -> bool:
        """Whether the one that served is gone and no other comes up: each fails, or has imported for so long."""
        if not self._has_served:
            return False
        current = self.current
        if current is not None and current.stage is Stage.READY:
            return False
        return self._backoff.failures > 1 or (current is not None and now - current.since > slow_seconds)

    def next_due(self) -> float | None:
        """When one is to be started; None: one is there, or is being tried."""
        return self._backoff.not_before if self.current is None and self._next is None else None

    def end_hung(self, markers: Collection[str]) -> None:
        """These took a request and forked nobody: they are stopped or hung. The death of the current one starts
        another; one that a reload has replaced would stay for ever."""
        for each in (*self._all(), *self._gone):
            if each.stage is Stage.READY and each.marker in markers:
                self._log.error("forkserver_hung", pid=each.pid)
                each.kill()

    def _drop_next(self) -> None:
        if self._next is not None:
            self._let_go(self._next)
            self._next = None

    def _let_go(self, forkserver: Forkserver) -> None:
        if forkserver.stage is not Stage.READY:
            forkserver.kill()  # it would go on with its import, perhaps for ever
        forkserver.close()
        if not forkserver.is_reaped:
            self._gone.append(forkserver)

    def retire(self) -> None:
        """Nobody will be forked any more; children that run go on."""
        self._drop_next()
        if self.current is not None:
            self._retired.append(self.current)
            self.current = None

    def let_go(self, needed: Callable[[], Collection[str]]) -> None:
        """Those of the replaced that are not among the needed, by their markers, may leave."""
        markers = needed() if self._retired else ()
        for each in [each for each in self._retired if each.marker not in markers]:
            self._retired.remove(each)
            self._let_go(each)

    def markers(self) -> set[str]:
        """Of those whose apps may need what they have started."""
        return {each.marker for each in self._all()}

    def pids(self) -> set[int]:
        """Of those that were not reaped yet."""
        return {each.pid for each in (*self._all(), *self._gone) if not each.is_reaped}

    def marker_of(self, pid: int) -> str | None:
        """None: it is no forkserver."""
        return next((each.marker for each in (*self._all(), *self._gone) if each.pid == pid), None)

    def _all(self) -> list[Forkserver]:
        """Save those that were let go."""
        return [each for each in (self.current, self._next, *self._retired) if each is not None]

    def close(self) -> None:
        """End all of them now; children that run are not theirs."""
        self.retire()
        self.let_go(frozenset)
        for each in self._gone:
            each.kill()

    @property
    def all_gone(self) -> bool:
        return not self._gone and not self._all()


def why_it_cannot_serve(forkserver: Forkserver) -> str:
    """The reason that it gave, or how it ended, if it was reaped."""
    if forkserver.reason or forkserver.status is None:
        return forkserver.reason
    how = f"the process that imported it ended: {describe_end(forkserver.status)}"
    is_its_own_doing = os.WIFEXITED(forkserver.status) and os.WEXITSTATUS(forkserver.status) != ExitCode.BUG
    return f"{how}; {_AT_IMPORT}" if is_its_own_doing else how


def describe_end(status: int) -> str:
    """A forkserver's wait status in words; children of the pool are what `describe_status` is made for."""
    return describe_status(status).replace("the child", "it")
