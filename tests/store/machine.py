"""The store against a model: any order of what workers, leaders and operators do, late and lost replies included."""

import time
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, precondition, rule

from orchestrator.model import Claim, ClaimRef, Outcome, Start, TaskStatus, Verdict
from orchestrator.store import claims, holdings, leadership, upkeep, workers
from orchestrator.store.connection import Connection
from tests.store.rows import PROCESS

WORKERS = ("a", "b", "c")
OWNED = ("claimed", "running")
WITHIN = 10.0
ENDINGS = st.sampled_from(["completed", "failed", "error"])
KEYS = st.sampled_from("xyz") | st.none()


@dataclass
class Task:
    """What the model knows of a task."""

    priority: int
    number: int
    max_retries: int
    status: str = "pending"
    attempts: int = 0
    recoveries: int = 0
    token: int | None = None
    ended_token: int | None = None
    worker: str | None = None

    def is_owned_by(self, token: int) -> bool:
        return self.status in OWNED and self.token == token

    def become_pending(self) -> None:
        self.status, self.token, self.worker = "pending", None, None


@dataclass
class Lease:
    holder: str | None = None
    term: int = 0
    is_expired: bool = True
    believed: dict[str, int] = field(default_factory=dict)  # by worker: the term it won last


class Machine(RuleBasedStateMachine):
    """Each rule does one thing to the database and to the model; after each the two must agree, row by row."""

    held = Bundle("held")  # every claim that a child ever learnt of, ended and stale ones too
    tasks_made = Bundle("tasks_made")

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.connection = connection
        self.tasks: dict[str, Task] = {}
        self.keys: dict[str, str] = {}
        self.alive: set[str] = set()
        self.generation = 0
        self.tokens: set[int] = set()
        self.lease = Lease()

    def sql(self, text: str, **values: Any) -> list[tuple[Any, ...]]:
        return self.connection.execute(text, values, within=WITHIN)

    @initialize()
    def begin(self) -> None:
        self.sql("TRUNCATE tasks, workers, sleepers, task_types, periodic_tasks")
        self.sql("UPDATE leadership SET holder = NULL, expires_at = clock_timestamp(), renewed_at = clock_timestamp()")
        self.sql("INSERT INTO task_types (type, retry_base_seconds) VALUES ('t', 0)")
        self.lease.term = self.sql("SELECT term FROM leadership")[0][0]
        self._lead(self._register("a"))
        for max_retries in (2, 1, 0):
            self._enqueue(0, max_retries, None)

    # who is there

    @rule(worker=st.sampled_from(WORKERS))
    def register(self, worker: str) -> None:
        """A worker that died comes back under a new name only."""
        self._register(worker)

    def _register(self, worker: str) -> str:
        name = f"{worker}{self.generation}"
        self.generation += 1
        assert workers.register(self.connection, worker_id=name, hostname="h", pool_size=2, version="1", within=WITHIN)
        self.alive.add(name)
        return name

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def lose_a_row(self, data: st.DataObject) -> None:
        """Somebody deletes a worker's row by hand."""
        name = data.draw(st.sampled_from(sorted(self.alive)))
        self.sql("DELETE FROM workers WHERE id = %(name)s", name=name)
        self.alive.discard(name)

    @precondition(lambda self: self.generation)
    @rule(data=st.data())
    def ask_for_the_lease(self, data: st.DataObject) -> None:
        self._lead(data.draw(self.any_worker()))

    def _lead(self, name: str) -> None:
        term = leadership.acquire(self.connection, holder=name, process=PROCESS, lease_seconds=3600.0, within=WITHIN)
        if self.lease.is_expired or self.lease.holder == name:
            assert term == self.lease.term + 1
            self.lease.holder, self.lease.term, self.lease.is_expired = name, term, False
            self.lease.believed[name] = term
        else:
            assert term is None

    @rule()
    def time_passes(self) -> None:
        """The lease runs out."""
        self.sql("UPDATE leadership SET expires_at = clock_timestamp()")
        self.lease.is_expired = True

    # tasks

    @rule(
        target=tasks_made,
        priority=st.integers(0, 2),
        max_retries=st.integers(0, 2),
        key=st.sampled_from("xyz") | st.none(),
    )
    def enqueue(self, priority: int, max_retries: int, key: str | None) -> str:
        return self._enqueue(priority, max_retries, key)

    def _enqueue(self, priority: int, max_retries: int, key: str | None) -> str:
        ((task_id,),) = self.sql(
            "SELECT enqueue_task('t', priority => %(p)s, max_retries => %(m)s, idempotency_key => %(k)s)::text",
            p=priority, m=max_retries, k=key,
        )  # fmt: skip
        if key is not None and key in self.keys:
            assert task_id == self.keys[key]
        else:
            assert task_id not in self.tasks
            self.tasks[task_id] = Task(priority, len(self.tasks), max_retries)
            if key is not None:
                self.keys[key] = task_id
        return str(task_id)

    @precondition(lambda self: self.generation)
    @rule(target=held, data=st.data(), limit=st.integers(1, 3), is_reply_lost=st.booleans())
    def claim(self, data: st.DataObject, limit: int, is_reply_lost: bool) -> Any:
        found = self._claim(data.draw(self.any_worker()), limit)
        return multiple(*(() if is_reply_lost else found))

    def _claim(self, name: str, limit: int) -> tuple[Claim, ...]:
        batch = claims.finish_and_claim(self.connection, [], worker_id=name, slot=0, limit=limit, within=WITHIN)
        assert batch.is_registered == (name in self.alive)
        expected = self.next_batch(limit) if name in self.alive else []
        assert [claim.task_id for claim in batch.claims] == expected
        for claim in batch.claims:
            assert claim.token not in self.tokens, "a token is used once"
            self.tokens.add(claim.token)
            task = self.tasks[claim.task_id]
            task.token, task.worker = claim.token, name
            task.status = "running" if task.recoveries else "claimed"
            task.attempts += task.recoveries > 0
            assert claim.attempt == task.attempts + (task.status == "claimed")
        return batch.claims

    def next_batch(self, limit: int) -> list[str]:
        """What a claim has to bring: by priority, then age; one that was recovered alone or not at all."""
        due = [
            (-task.priority, task.number, task_id) for task_id, task in self.tasks.items() if task.status == "pending"
        ]
        window = [task_id for _, _, task_id in sorted(due)[:limit]]
        if window and self.tasks[window[0]].recoveries:
            return window[:1]
        return [task_id for task_id in window if not self.tasks[task_id].recoveries]

    @rule(claim=held)
    def say_that_it_runs(self, claim: Claim) -> None:
        self._run(claim)

    def _run(self, claim: Claim) -> None:
        task = self.tasks[claim.task_id]
        is_right = task.is_owned_by(claim.token) and task.status == "claimed"
        start = Start(claim.task_id, claim.token, claim.attempt, time.monotonic())
        assert claims.mark_running(self.connection, [start], within=WITHIN) == is_right
        if is_right:
            task.status, task.attempts = "running", claim.attempt

    @rule(claim=held, how=ENDINGS)
    def end(self, claim: Claim, how: str) -> None:
        """In time, too late, or for the second time."""
        self._end(claim, how)

    def _end(self, claim: Claim, how: str) -> None:
        task, now = self.tasks[claim.task_id], time.monotonic()
        status = TaskStatus(how) if how != "error" else TaskStatus.PENDING
        if how == "error" and claim.attempt > task.max_retries:
            status = TaskStatus.DEAD_LETTER
        outcome = Outcome(
            claim.task_id, claim.token, "t", status, attempt=claim.attempt, started_monotonic=now, ended_monotonic=now
        )
        batch = claims.finish_and_claim(self.connection, [outcome], worker_id="nobody", slot=0, limit=0, within=WITHIN)
        assert batch.accepted == task.is_owned_by(claim.token)
        if not batch.accepted:
            verdict = Verdict.BY_CHILD if task.ended_token == claim.token else Verdict.STALE
            assert holdings.verdicts(self.connection, [outcome], within=WITHIN) == {claim.token: verdict}
            return
        task.attempts, task.ended_token = claim.attempt, claim.token
        task.status = status.value
        if status is TaskStatus.PENDING:
            task.become_pending()

    @rule(claim=held)
    def hand_back(self, claim: Claim) -> None:
        task = self.tasks[claim.task_id]
        is_right = task.is_owned_by(claim.token)
        released = claims.release(self.connection, [ClaimRef(claim.task_id, claim.token)], within=WITHIN)
        assert released == is_right
        if is_right:
            task.attempts -= task.status == "running"
            task.become_pending()

    @rule(task_id=tasks_made)
    def retry_by_hand(self, task_id: str) -> None:
        """The guide's UPDATE, for whatever state the task is in."""
        self.sql(
            "UPDATE tasks SET status = 'pending', attempts = 0, next_retry_at = NULL WHERE id = %(id)s", id=task_id
        )
        task = self.tasks[task_id]
        task.attempts = 0
        task.become_pending()

    # what leaders do, past ones too

    def is_leader(self, name: str) -> bool:
        lease = self.lease
        return not lease.is_expired and (lease.holder, lease.term) == (name, lease.believed.get(name))

    @precondition(lambda self: self.lease.believed)
    @rule(data=st.data())
    def declare_the_silent_dead(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.lease.believed)))
        dead = upkeep.declare_silent_dead(
            self.connection, term=self.lease.believed[name], holder=name, timeout_seconds=0.0, gap_seconds=60.0,
            within=WITHIN,
        )  # fmt: skip
        others = self.alive - {name}
        assert set(dead) == (others if self.is_leader(name) and name in self.alive else set())
        self.alive -= set(dead)

    @precondition(lambda self: self.lease.believed)
    @rule(data=st.data())
    def recover(self, data: st.DataObject) -> None:
        self._recover(data.draw(st.sampled_from(sorted(self.lease.believed))))

    def _recover(self, name: str) -> None:
        found = upkeep.recover(self.connection, term=self.lease.believed[name], holder=name, limit=100, within=WITHIN)
        upkeep.promote_due(self.connection, limit=100, within=WITHIN)
        lost = {key for key, task in self.tasks.items() if task.status in OWNED and task.worker not in self.alive}
        assert {each.task_id for each in found} == (lost if self.is_leader(name) else set())
        for each in found:
            task = self.tasks[each.task_id]
            if task.status == "running" and task.attempts > task.max_retries:
                task.status = "dead_letter"
                continue
            task.recoveries += task.status == "claimed"
            task.become_pending()

    @rule(claim=held, has_run=st.booleans(), is_claimed_again=st.booleans(), how=ENDINGS)
    def outlive_the_worker(self, claim: Claim, has_run: bool, is_claimed_again: bool, how: str) -> None:
        """The whole of what a zombie does, which single steps in any order would seldom make: its worker dies, its
        task is recovered and perhaps claimed by another, and then it ends."""
        task = self.tasks[claim.task_id]
        if not task.is_owned_by(claim.token) or task.worker is None:
            return
        if has_run:
            self._run(claim)
        self.sql("DELETE FROM workers WHERE id = %(name)s", name=task.worker)
        self.alive.discard(task.worker)
        successor = self._register("s")
        self.time_passes()
        self._lead(successor)
        for deposed in set(self.lease.believed) - {successor}:
            self._recover(deposed)
        self._recover(successor)
        while is_claimed_again and task.status == "pending":
            assert self._claim(successor, 1)
        self._end(claim, how)

    def any_worker(self) -> st.SearchStrategy[str]:
        """One that registered ever: it may be dead and not know."""
        known = {f"{worker}{number}" for worker in (*WORKERS, "s") for number in range(self.generation)}
        return st.sampled_from(sorted(known))

    @invariant()
    def the_table_is_as_the_model_has_it(self) -> None:
        rows = self.sql(
            "SELECT id::text, status::text, attempts, recoveries, claim_token, ended_token, worker_id FROM tasks"
        )
        assert {row[0]: row[1:] for row in rows} == {
            task_id: (each.status, each.attempts, each.recoveries, each.token, each.ended_token, each.worker)
            for task_id, each in self.tasks.items()
        }
