"""Triggers that write down every change of a task, a worker and the lease, in the transaction that makes it."""

import time

from tests.chaos.history import Change, Death, Leadership, Row
from tests.fixtures.daemon import Queue

TRIGGERS = """
CREATE TABLE audit_tasks (
    number bigserial, at timestamptz DEFAULT clock_timestamp(), transaction xid8 DEFAULT pg_current_xact_id(),
    role text DEFAULT session_user, holder text, lease_left double precision, task_id uuid,
    old_status text, new_status text, old_attempts int, new_attempts int, old_token bigint, new_token bigint,
    old_ended_token bigint, new_ended_token bigint, old_worker text, new_worker text, is_recovery boolean
);
CREATE TABLE audit_workers (
    number bigserial, at timestamptz DEFAULT clock_timestamp(), role text DEFAULT session_user, holder text,
    lease_left double precision, worker_id text, what text, silence double precision
);
CREATE TABLE audit_leadership (
    number bigserial, at timestamptz DEFAULT clock_timestamp(), old_term bigint, new_term bigint, old_holder text,
    new_holder text, lease_left double precision
);
CREATE FUNCTION audit_task() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    lease record;
BEGIN
    SELECT holder, date_part('epoch', expires_at - clock_timestamp()) AS lease_left INTO lease FROM leadership;
    INSERT INTO audit_tasks (holder, lease_left, task_id, old_status, new_status, old_attempts, new_attempts,
        old_token, new_token, old_ended_token, new_ended_token, old_worker, new_worker, is_recovery)
    VALUES (lease.holder, lease.lease_left, coalesce(NEW.id, OLD.id), OLD.status, NEW.status, OLD.attempts,
        NEW.attempts, OLD.claim_token, NEW.claim_token, OLD.ended_token, NEW.ended_token, OLD.worker_id, NEW.worker_id,
        TG_OP = 'UPDATE' AND OLD.status IN ('claimed', 'running') AND NEW.status IN ('pending', 'dead_letter')
            AND NEW.last_error LIKE 'worker %' AND NEW.last_error IS DISTINCT FROM OLD.last_error);
    RETURN NULL;
END $$;
CREATE FUNCTION audit_worker() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    lease record;
BEGIN
    SELECT holder, date_part('epoch', expires_at - clock_timestamp()) AS lease_left INTO lease FROM leadership;
    IF TG_OP = 'INSERT' THEN
        INSERT INTO audit_workers (worker_id, what) VALUES (NEW.id, 'registered');
    ELSIF OLD.declared_dead_at IS NULL AND NEW.declared_dead_at IS NOT NULL THEN
        INSERT INTO audit_workers (holder, lease_left, worker_id, what, silence) VALUES (lease.holder, lease.lease_left,
            NEW.id, 'dead', date_part('epoch', clock_timestamp() - OLD.last_heartbeat));
    END IF;
    RETURN NULL;
END $$;
CREATE FUNCTION audit_lease() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit_leadership (old_term, new_term, old_holder, new_holder, lease_left)
    VALUES (OLD.term, NEW.term, OLD.holder, NEW.holder, date_part('epoch', OLD.expires_at - clock_timestamp()));
    RETURN NULL;
END $$;
CREATE TRIGGER audit AFTER INSERT OR UPDATE ON tasks FOR EACH ROW EXECUTE FUNCTION audit_task();
CREATE TRIGGER audit AFTER INSERT OR UPDATE ON workers FOR EACH ROW EXECUTE FUNCTION audit_worker();
CREATE TRIGGER audit AFTER UPDATE ON leadership FOR EACH ROW EXECUTE FUNCTION audit_lease();
"""


class Audit:
    """The triggers in one database, and what they wrote."""

    def __init__(self, queue: Queue, *, is_new: bool = True) -> None:
        self._queue = queue
        if is_new:
            queue.rows(TRIGGERS)
        # whoever has to wait between the two clocks gets too little
        self._offset = max(time.monotonic() - time.time() for _ in range(10))

    def on(self, queue: Queue) -> "Audit":
        """The same by another connection."""
        return Audit(queue, is_new=False)

    def _at(self, column: str = "at") -> str:
        return f"date_part('epoch', {column}) + {self._offset!r}"

    def roles(self) -> dict[str, str]:
        """Whose connection registered a worker, by worker id."""
        return dict(self._queue.rows("SELECT worker_id, role FROM audit_workers WHERE what = 'registered'"))

    def _holder_role(self) -> str:
        """Whose the lease is; it may run out while a leader's statement holds its row, and stays its."""
        return (
            "CASE WHEN lease_left > -0.5 THEN (SELECT r.role FROM audit_workers AS r "
            "WHERE r.what = 'registered' AND r.worker_id = a.holder LIMIT 1) END"
        )

    def changes(self) -> list[Change]:
        return [
            Change(*row)
            for row in self._queue.rows(f"""
                SELECT {self._at()}, transaction::text::bigint, role, {self._holder_role()}, task_id::text, old_status,
                    new_status, coalesce(old_attempts, 0), coalesce(new_attempts, 0), old_token, new_token,
                    old_ended_token, new_ended_token, old_worker, new_worker, is_recovery
                FROM audit_tasks AS a ORDER BY number""")
        ]

    def deaths(self) -> list[Death]:
        return [
            Death(*row)
            for row in self._queue.rows(f"""
                SELECT {self._at()}, role, {self._holder_role()}, worker_id, silence
                FROM audit_workers AS a WHERE what = 'dead' ORDER BY number""")
        ]

    def leaderships(self) -> list[Leadership]:
        return [
            Leadership(*row)
            for row in self._queue.rows(f"""
                SELECT {self._at()}, old_term, new_term, old_holder, new_holder, lease_left
                FROM audit_leadership ORDER BY number""")
        ]

    def rows(self) -> list[Row]:
        return [
            Row(*row)
            for row in self._queue.rows(f"""
                SELECT id::text, (payload ->> 'n')::integer, type, idempotency_key, status::text, attempts, priority,
                    {self._at("created_at")}, max_retries, {self._at("(payload ->> 'due_at')::timestamptz")}
                FROM tasks ORDER BY id""")
        ]
