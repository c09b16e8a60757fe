"""What must be true of every run, whatever was done to it. Pure: a history in, violations out."""

import collections
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from orchestrator.model import TRANSITIONS, TaskStatus
from tests.chaos.history import Change, Execution, History

T = TypeVar("T")
K = TypeVar("K")

CLOCKS = 0.05
"""Seconds by which the database's clock and the host's may differ."""

FORGETS_SECONDS = 1.0
"""So old may a claim be that a crash of the database server undoes: the WAL writer brings what nobody waits for to the
disk within three times wal_writer_delay (0.2 s), and shares this machine."""

ZOMBIE_SECONDS = 10.0
"""So long after a crash of the database server a child may still begin what it had claimed before: it may be paused."""

PERIOD_SECONDS = 1.0
"""Of the periodic task."""

LATE_SECONDS = 5.0
"""So much later than the leader has looked what is due may it be enqueued: it may be paused for as long as its term
lasts, and hardly get a processor."""

ENDS = {"completed", "failed", "dead_letter"}
OWNED = {"claimed", "running"}

PROMISES = {
    "work": {"completed"},
    "flaky": {"completed"},
    "broken": {"dead_letter"},
    "refused": {"failed"},
    "crash": {"dead_letter"},
    "hang": {"dead_letter"},
    "unknown": {"failed"},
    "tick": {"completed"},
}
"""How a task of each type may end. (Kills cost attempts, but those that are to succeed have plenty.)"""

LIMITS = {"broken": 3, "crash": 2, "hang": 1}
"""Attempts after which a task of these types is a dead letter."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that was broken, and by which task (empty: by none in particular)."""

    rule: str
    task_id: str
    text: str


def check(history: History) -> list[Violation]:
    """Every violation of every rule."""
    return [violation for rule in RULES for violation in rule(history)]


def nothing_is_lost(history: History) -> Iterator[Violation]:
    """Every acknowledged task is there, every task that is there was tried, and each has ended, once."""
    present = {row.task_id for row in history.rows}
    for each in history.enqueues:
        if each.task_id is not None and each.task_id not in present:
            yield Violation("lost", each.task_id, f"task {each.n} was acknowledged and is gone")
    tried = {each.n for each in history.enqueues}
    for row in history.rows:
        if row.due is None and row.n not in tried:
            yield Violation("invented", row.task_id, f"nobody enqueued {row}")
        if row.due is None and row.status not in ENDS:  # periodic ones come until the last worker has left
            yield Violation("unfinished", row.task_id, f"it is still {row.status}")
    ends = collections.Counter(each.task_id for each in history.changes if each.new_status in ENDS)
    for task_id, count in ends.items():
        if count > 1:
            yield Violation("ended twice", task_id, f"it reached an end {count} times")


def ends_are_as_promised(history: History) -> Iterator[Violation]:
    cancelled = {each.task_id for each in history.cancels}
    for row in history.rows:
        if row.task_id in cancelled and row.status == "failed":
            continue
        if row.status in ENDS and row.status not in PROMISES[row.type]:
            yield Violation("wrong end", row.task_id, f"a task of type {row.type} ended {row.status}")
        if row.status == "dead_letter" and row.attempts != LIMITS.get(row.type, row.attempts):
            yield Violation("wrong end", row.task_id, f"dead after {row.attempts} attempts, not {LIMITS[row.type]}")


def keys_are_unique(history: History) -> Iterator[Violation]:
    ids = collections.defaultdict(set)
    for each in history.enqueues:
        if each.key is not None and each.task_id is not None:
            ids[each.type, each.key].add(each.task_id)
    for row in history.rows:
        if row.key is not None:
            ids[row.type, row.key].add(row.task_id)
    for key, found in ids.items():
        if len(found) > 1:
            yield Violation("key used twice", min(found), f"{key} made {sorted(found)}")


def periodic_tasks_come_once_and_on_time(history: History) -> Iterator[Violation]:
    """One for a moment, one moment after the other, and none for a moment that a newer one had passed already."""
    rows = sorted((row.created, row.due, row.task_id) for row in history.rows if row.due is not None)
    for (_, before, _), (_, due, task_id) in itertools.pairwise(rows):
        if due < before + PERIOD_SECONDS - CLOCKS:
            yield Violation("periodic", task_id, f"the moment {due} came after {before}")
    for created, due, task_id in rows:
        if not due - CLOCKS <= created < due + PERIOD_SECONDS + LATE_SECONDS:
            yield Violation("periodic", task_id, f"it was due at {due} and enqueued at {created}")


def transitions_are_allowed(history: History) -> Iterator[Violation]:
    for each in history.changes:
        if each.old_status is None or each.new_status is None or each.old_status == each.new_status:
            continue
        if TaskStatus(each.new_status) not in TRANSITIONS[TaskStatus(each.old_status)] or each.old_status in ENDS:
            yield Violation("transition", each.task_id, f"{each.old_status} became {each.new_status}")


def owners_are_fenced(history: History) -> Iterator[Violation]:
    """An outcome ends the claim that the task has at that moment, and no other; tokens are never used twice."""
    used: set[int] = set()
    for each in history.changes:
        ended = abs(each.new_ended_token or 0)  # negative: its supervisor wrote it
        if each.new_ended_token != each.old_ended_token and ended != each.old_token:
            text = f"the outcome of claim {ended} was taken for claim {each.old_token}"
            yield Violation("stale outcome", each.task_id, text)
        if each.new_status in OWNED and each.new_token != each.old_token and each.new_token is not None:
            if each.new_token in used:
                yield Violation("token used twice", each.task_id, f"token {each.new_token}")
            used.add(each.new_token)


def attempts_are_counted(history: History) -> Iterator[Violation]:
    """One for each execution, when it is marked running or ends; a recovery changes none, a hand-back takes it off.

    One that was lost with its worker before it was counted runs again under the same number, unless it is cancelled.
    """
    for each in history.changes:
        if each.old_status is None:
            continue
        grown, right = each.new_attempts - each.old_attempts, _due_attempts(each)
        if grown != right:
            text = f"attempts went from {each.old_attempts} to {each.new_attempts}: {each}"
            yield Violation("attempts", each.task_id, text)
    counted = {row.task_id: row.attempts for row in history.rows}
    cancelled = {each.task_id for each in history.cancels}
    claims = _Claims(history)
    for task_id, runs in _by(history.executions, lambda run: run.task_id):
        last = max(runs, key=lambda run: run.attempt)
        missing = last.attempt - counted.get(task_id, last.attempt)
        if missing > 0 and not (missing == 1 and task_id in cancelled and claims.was_lost(last)):
            yield Violation("attempts", task_id, f"attempt {last.attempt} ran, and only {counted[task_id]} are counted")


def _due_attempts(change: Change) -> int:
    """By how much this change of status has to change `attempts`."""
    old, new = change.old_status, change.new_status
    if new == "running" and old in ("pending", "claimed"):
        return 1
    if old == "claimed":
        return int(_is_outcome(change))
    if old == "running" and new == "pending":
        return 0 if _is_outcome(change) or change.is_recovery else -1
    return 0


def _is_outcome(change: Change) -> bool:
    return change.new_ended_token != change.old_ended_token


def leaders_are_fenced(history: History) -> Iterator[Violation]:
    """What only a leader may write was written by whoever led at that moment, and terms only grow."""
    for change in history.changes:
        if change.is_recovery and change.role != change.holder_role:
            text = f"{change.role} recovered it while {change.holder_role} led"
            yield Violation("leader's write", change.task_id, text)
    for death in history.deaths:
        if death.role != death.holder_role:
            text = f"{death.role} declared {death.worker_id} dead while {death.holder_role} led"
            yield Violation("leader's write", "", text)
    for each in history.leaderships:
        if each.new_holder == each.old_holder and each.new_term == each.old_term:
            continue
        if each.new_term != each.old_term + 1:
            yield Violation("term", "", f"the term went from {each.old_term} to {each.new_term}")


def only_the_silent_die(history: History) -> Iterator[Violation]:
    """Beside a single instance nobody lives: a new one may declare its predecessor dead at once."""
    for each in history.deaths if history.is_distributed else ():
        if each.silence < history.worker_timeout:
            yield Violation("declared dead", "", f"{each.worker_id} had beaten {each.silence:.2f} s before")


def only_the_dead_are_recovered_from(history: History) -> Iterator[Violation]:
    dead = {each.worker_id: each.at for each in history.deaths}
    for each in history.changes:
        if each.is_recovery and each.at < dead.get(each.old_worker or "", float("inf")) and each.old_worker in dead:
            text = f"recovered from {each.old_worker} before that was declared dead"
            yield Violation("recovered early", each.task_id, text)


def nothing_runs_twice_at_once(history: History) -> Iterator[Violation]:
    """Unless the first one's claim had been recovered in between: its worker was taken for dead; or the database server
    had crashed and forgotten it."""
    recoveries = collections.defaultdict(list)
    for change in history.changes:
        if change.is_recovery:
            recoveries[change.task_id].append(change.at)
    claims = _Claims(history)
    for task_id, runs in _by(history.executions, lambda run: run.task_id):
        for first, second in itertools.permutations(runs, 2):
            if first.ended is None or not first.started < second.started < first.ended:
                continue
            if claims.was_forgotten(first) and claims.crashed(first.started - FORGETS_SECONDS, second.started):
                continue
            if not any(first.started - CLOCKS < at < second.started + CLOCKS for at in recoveries[task_id]):
                text = f"attempt {second.attempt} in {second.pid} began during attempt {first.attempt} in {first.pid}"
                yield Violation("overlap", task_id, text)


class _Claims:
    """Which executions have no claim on record: it was undone, with the record, by a crash of the database server."""

    def __init__(self, history: History) -> None:
        self._changes = dict(_by(history.changes, lambda change: change.task_id))
        self._crashes = list(_crashes(history))

    def crashed(self, after: float, before: float) -> bool:
        return any(after < end and begin < before for begin, end in self._crashes)

    def was_lost(self, run: Execution) -> bool:
        """Its claim was forgotten, or recovered before it was known that `run` had begun."""
        changes = self._changes.get(run.task_id, ())
        return self.was_forgotten(run) or any(
            each.is_recovery and each.old_status == "claimed" and each.at > run.started for each in changes
        )

    def was_forgotten(self, run: Execution) -> bool:
        """The row was nobody's when `run` began, and a crash came a moment after whatever made it so.

        The claim is from before the crash and at most FORGETS_SECONDS older, and its handler began after that.
        """
        before = [each for each in self._changes.get(run.task_id, ()) if each.at < run.started + CLOCKS]
        if not before or before[-1].new_status in OWNED:
            return False
        return any(before[-1].at < end and run.started > begin - FORGETS_SECONDS for begin, end in self._crashes)


def _crashes(history: History) -> Iterator[tuple[float, float]]:
    """From when to when somebody was about to crash the database server: it worked on until some time in between."""
    ends = [each.at for each in history.deeds if (each.what, each.target) == ("is down", "database")]
    for each in history.deeds:
        if (each.what, each.target) == ("crash", "database"):
            yield each.at, min((end for end in ends if end >= each.at), default=each.at)


def nothing_runs_before_its_time(history: History) -> Iterator[Violation]:
    due = {each.task_id: each.run_at for each in history.enqueues if each.task_id is not None and each.run_at}
    for run in history.executions:
        if run.started < due.get(run.task_id, 0.0) - CLOCKS:
            yield Violation("too early", run.task_id, f"{due[run.task_id] - run.started:.2f} s before its time")


def what_is_cancelled_begins_no_more(history: History) -> Iterator[Violation]:
    """Unless a claim of it was recovered, or forgotten in a crash, and whoever had that does not know yet."""
    cancels = {each.task_id: each.at for each in history.cancels if each.at is not None}
    recovered = {change.task_id for change in history.changes if change.is_recovery}
    claims = _Claims(history)
    for run in history.executions:
        at = cancels.get(run.task_id)
        if at is None or run.started < at + CLOCKS or run.task_id in recovered:
            continue
        if not claims.crashed(run.started - ZOMBIE_SECONDS, run.started):
            yield Violation("cancelled", run.task_id, f"began {run.started - at:.2f} s after it was cancelled")


def batches_run_in_order(history: History) -> Iterator[Violation]:
    """Of the tasks that one statement claimed, a child runs the higher priority first, then the older."""
    rows = {row.task_id: row for row in history.rows}
    claims = [each for each in history.changes if each.old_status == "pending" and each.new_status in OWNED]
    by_task = dict(_by(claims, lambda change: change.task_id))
    claimed = []
    known = _Claims(history)
    for run in history.executions:
        if known.was_forgotten(run):
            continue
        before = [each for each in by_task.get(run.task_id, ()) if each.at < run.started]
        if before and run.task_id in rows:
            claimed.append((before[-1].transaction, run))
    for _, batch in _by(claimed, lambda each: each[0]):
        first_runs = [(run, rows[run.task_id]) for _, run in batch]
        for _, own in _by(first_runs, lambda each: each[0].pid):
            order = sorted(own, key=lambda each: each[0].started)
            for (_, before), (_, after) in itertools.pairwise(order):
                if (-before.priority, before.created) > (-after.priority, after.created):
                    text = f"priority {after.priority} ran after {before.priority}: task {before.task_id}"
                    yield Violation("order", after.task_id, text)


def _by(items: Iterable[T], key: Callable[[T], K]) -> Iterator[tuple[K, Sequence[T]]]:
    groups: dict[K, list[T]] = collections.defaultdict(list)
    for each in items:
        groups[key(each)].append(each)
    yield from groups.items()


RULES = (
    nothing_is_lost,
    ends_are_as_promised,
    keys_are_unique,
    periodic_tasks_come_once_and_on_time,
    transitions_are_allowed,
    owners_are_fenced,
    attempts_are_counted,
    leaders_are_fenced,
    only_the_silent_die,
    only_the_dead_are_recovered_from,
    nothing_runs_twice_at_once,
    nothing_runs_before_its_time,
    what_is_cancelled_begins_no_more,
    batches_run_in_order,
)
