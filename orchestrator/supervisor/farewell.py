"""How the supervisor ends: drain within its time, kill what is left, let the database hear of it, leave nothing."""

import contextlib
import os
import select
import time
from typing import Protocol

from orchestrator.board.layout import ChildOrder
from orchestrator.exit_codes import ExitCode
from orchestrator.supervisor import leftovers
from orchestrator.supervisor.children import Doom
from orchestrator.supervisor.forkservers import Forkservers
from orchestrator.supervisor.pool import Pool
from orchestrator.supervisor.reaper import UNREAPED_SECONDS, Reaper
from orchestrator.telemetry import logs

FLUSH_SECONDS = 2.5
"""Once the last child is gone, its outcomes and hand-backs have at least so long to reach the database."""

SIGN_OFF_SECONDS = 1.5
"""Leaving the workers table and ending the threads may take so long."""

REAP_SECONDS, LOOKS_APART_SECONDS = 0.5, 0.005


class Outbox(Protocol):
    """What the end needs of the database threads."""

    @property
    def outstanding(self) -> int: ...

    def stop(self, *, within: float) -> None: ...


class Farewell:
    """The steps of the end; `is_over` is asked each turn of a drain, `end` is called once, whatever happened."""

    def __init__(self, pool: Pool, reaper: Reaper, database: Outbox, forkservers: Forkservers) -> None:
        self._pool = pool
        self._reaper = reaper
        self._database = database
        self._forkservers = forkservers
        self._deadline = 0.0
        self._empty_since: float | None = None
        self._is_answered = False
        self.exit_code = ExitCode.CLEAN
        self._log = logs.get("supervisor")

    def begin(self, now: float, seconds: float) -> None:
        """No new claims, no new children; what runs may finish for so many seconds."""
        self._deadline = now + seconds
        self._forkservers.retire()
        self._pool.abandon_births("the worker drains", now)
        self._pool.order_all(ChildOrder.LEAVE)

    def hurry(self, now: float) -> None:
        """The time is up now."""
        self._deadline = min(self._deadline, now)

    def is_over(self, now: float) -> bool:
        """Take the next step; whether none is left."""
        if self._pool.links:
            if now >= self._deadline:
                self._reaper.kill_all(Doom.DRAIN, "the drain ran out of time", now)
            if now >= self._deadline + UNREAPED_SECONDS:
                self._reaper.give_up(now)
            return False
        if self._empty_since is None:
            self._empty_since = now
        if self._database.outstanding and now < max(self._deadline, self._empty_since + FLUSH_SECONDS):
            self._is_answered = False
            return False
        if not self._is_answered:
            self._is_answered = True  # the answer to the last order may ask for another: it is heard in the next turn
            return False
        self._conclude()
        return True

    def _conclude(self) -> None:
        unsaid = self._database.outstanding
        if unsaid:
            self._log.error("drain_incomplete", unwritten=unsaid, then="the next start recovers these tasks")
        if self.exit_code is ExitCode.CLEAN and (unsaid or self._reaper.requeued):
            self.exit_code = ExitCode.REQUEUED
        self._log.info("drain_ended", requeued=self._reaper.requeued)

    def end(self) -> None:
        """Whatever happened before: no process of ours is left after this, and the database has heard of it."""
        self._forkservers.close()
        self._reaper.kill_all(Doom.DRAIN, "the supervisor ends", time.monotonic())
        deadline = time.monotonic() + REAP_SECONDS
        while True:
            now = time.monotonic()
            for pid, status in self._reaper.reap(now):
                self._forkservers.reaped(pid, status, now)
            if (self._forkservers.all_gone and not self._pool.links) or now > deadline:
                break
            # SIGKILL was sent; SIGCHLD may have come before we looked. (time.sleep fails under libfaketime, always.)
            select.select([], [], [], LOOKS_APART_SECONDS)
        self._database.stop(within=SIGN_OFF_SECONDS)
        with contextlib.suppress(OSError):  # no descriptor to be had, of the whole machine's: all else is done
            leftovers.kill_unowned(())
        self._reap_adopted()

    @staticmethod
    def _reap_adopted() -> None:
        """Zombies that we adopted meanwhile."""
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
