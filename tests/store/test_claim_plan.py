"""What a claim costs is read from its plan: tens of thousands of waiting or finished tasks must not make it dearer.

Buffers are counted and not milliseconds, so these hold on any machine.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from orchestrator.model import Outcome
from orchestrator.store import claims, upkeep
from orchestrator.store.connection import Connection
from tests.store.plans import Recorder, buffers, nodes
from tests.store.rows import add_many, add_tasks, add_worker, claim, ending, finish, reference

WAITING = 40_000
STARTS = [None, claims.Place(0, "-infinity")]  # both statements; what is due stands behind the place
MakeRecorder = Callable[[], Recorder]


def claim_plan(
    recorder: Recorder, limit: int, outcomes: Sequence[Outcome] = (), start: claims.Place | None = None
) -> dict[str, Any]:
    """The plan of the claim statement as finish_and_claim sends it."""
    claims.finish_and_claim(recorder, outcomes, worker_id="w", slot=0, limit=limit, within=60.0, start=start)
    return recorder.plan()


def add_waiting(connection: Connection) -> None:
    """Tasks of the highest priority that are due far in the future."""
    add_many(connection, WAITING, priority="9", next_retry_at="now() + i * interval '1 minute'")


def test_waiting_tasks_of_higher_priority_cost_a_claim_nothing(
    connection: Connection, make_recorder: MakeRecorder
) -> None:
    """Before statistics of them are there, and with them."""
    add_worker(connection)
    add_waiting(connection)
    add_tasks(connection, 500)
    for vacuum in ("VACUUM tasks", "VACUUM ANALYZE tasks"):
        connection.execute(vacuum, within=60.0)
        recorder = make_recorder()
        found = claim_plan(recorder, 1)
        assert buffers(found) < 60, vacuum
        assert {node.get("Index Name") for node in nodes(found["Plan"]) if node.get("Relation Name") == "tasks"} >= {
            "idx_tasks_claimable"
        }, vacuum
        assert buffers(claim_plan(recorder, 100)) < 100 * 30, vacuum


def test_statistics_of_a_quiet_hour_do_not_mislead_a_claim(connection: Connection, make_recorder: MakeRecorder) -> None:
    """ANALYZE saw nothing pending and nothing claimed; then a burst came. Autovacuum is late to such parties."""
    add_worker(connection)
    connection.execute("ALTER TABLE tasks SET (autovacuum_enabled = off)", within=5.0)
    add_many(connection, 20_000)
    connection.execute("UPDATE tasks SET status = 'completed'", within=60.0)
    connection.execute("VACUUM (FULL, ANALYZE) tasks", within=60.0)
    add_many(connection, 20_000)
    taken = claim(connection, 2000)
    for start in STARTS:
        found = claim_plan(make_recorder(), 100, [ending(one) for one in taken[:100]], start)
        used = nodes(found["Plan"])
        assert "Seq Scan" not in {node["Node Type"] for node in used if node.get("Relation Name") == "tasks"}
        assert "idx_tasks_owned" not in {node.get("Index Name") for node in used}
        assert sum(node["Actual Rows"] for node in used if node.get("Index Name") == "idx_tasks_claimable") == 100
        assert buffers(found) < 200 * 30 + 200


@pytest.mark.parametrize("rows", [None, 0, 5])
def test_a_plan_that_was_made_on_an_empty_table_serves_a_full_one(
    connection: Connection, make_recorder: MakeRecorder, rows: int | None
) -> None:
    """The daemon starts on an empty queue, its sessions keep the plan of that, and nothing makes them plan again."""
    connection.execute("ALTER TABLE tasks SET (autovacuum_enabled = off)", within=5.0)
    add_worker(connection)
    if rows is not None:  # ... and statistics of that are there
        add_tasks(connection, rows)
        connection.execute("VACUUM ANALYZE tasks", within=60.0)
    recorders = [(make_recorder(), start) for start in STARTS]
    for recorder, start in recorders:
        for limit in (0, 1, 100):
            claims.finish_and_claim(recorder, [], worker_id="w", slot=0, limit=limit, within=60.0, start=start)
    add_waiting(connection)
    add_many(connection, 20_000)
    taken = claim(connection, 1000)
    for recorder, start in recorders:
        found = claim_plan(recorder, 100, [ending(one) for one in taken[:100]], start)
        used = {(node["Node Type"], node.get("Index Name")) for node in nodes(found["Plan"]) if "Relation Name" in node}
        assert {index for _, index in used if index} == {"tasks_pkey", "idx_tasks_claimable", "workers_pkey"}
        by_key = [node for node in nodes(found["Plan"]) if node.get("Index Name") == "tasks_pkey"]
        assert len(by_key) == 1
        assert all("Index Cond" in node for node in by_key)  # without, it reads the whole index
        assert {kind for kind, _ in used} <= {"Index Scan", "Index Only Scan", "Tid Scan", "ModifyTable"}
        assert buffers(found) < 200 * 30 + 200


def test_a_large_batch_is_not_joined_pair_by_pair(connection: Connection, recorder: Recorder) -> None:
    add_worker(connection)
    add_many(connection, 10_000)
    taken = claim(connection, 5000)
    found = claim_plan(recorder, 5000, [ending(one) for one in taken])
    compared = sum(node.get("Rows Removed by Join Filter", 0) for node in nodes(found["Plan"]))
    assert compared < 5000


def test_finishing_looks_each_task_up_by_its_key(connection: Connection, recorder: Recorder) -> None:
    add_worker(connection)
    add_many(connection, 20_000)
    connection.execute("VACUUM ANALYZE tasks", within=60.0)
    taken = claim(connection, 100)
    found = claim_plan(recorder, 0, [ending(one) for one in taken])
    indexes = {node.get("Index Name") for node in nodes(found["Plan"]) if node.get("Relation Name") == "tasks"}
    assert "tasks_pkey" in indexes
    assert buffers(found) < 100 * 30


def test_the_claim_is_never_compiled(connection: Connection, make_recorder: MakeRecorder) -> None:
    """JIT starts where the planner expects a high cost, as it does of a long queue; it takes longer than any claim."""
    add_worker(connection)
    add_tasks(connection, 1000)
    name = connection.execute("SELECT current_database()", within=5.0)[0][0]
    connection.execute(f"ALTER DATABASE {name} SET jit = on; ALTER DATABASE {name} SET jit_above_cost = 0", within=5.0)
    assert "JIT" not in claim_plan(make_recorder(), 1000)


def test_a_poll_with_nothing_due_reads_next_to_nothing(connection: Connection, recorder: Recorder) -> None:
    add_waiting(connection)
    connection.execute("VACUUM ANALYZE tasks", within=60.0)
    upkeep.promote_due(recorder, limit=1000, within=60.0)
    found = recorder.plan()
    assert buffers(found) < 30


@pytest.mark.parametrize("is_analyzed", [True, False])
def test_a_poll_whose_plan_was_made_on_an_empty_table_serves_a_full_one(
    connection: Connection, recorder: Recorder, is_analyzed: bool
) -> None:
    connection.execute("ALTER TABLE tasks SET (autovacuum_enabled = off)", within=5.0)
    if is_analyzed:
        connection.execute("VACUUM ANALYZE tasks", within=60.0)
    upkeep.promote_due(recorder, limit=1000, within=60.0)
    add_waiting(connection)
    for count in (0, 10, 20_000):  # of the due, beside those
        add_many(connection, count)
        upkeep.promote_due(recorder, limit=1000, within=60.0)
        found = recorder.plan()
        assert {node["Index Name"] for node in nodes(found["Plan"]) if "Index Name" in node} >= {
            "idx_tasks_waiting",
            "idx_tasks_claimable",
        }
        assert all("Index Cond" in node for node in nodes(found["Plan"]) if "Index Name" in node)
        assert buffers(found) < 40


def test_promotion_reads_what_is_due_and_not_what_waits(connection: Connection, recorder: Recorder) -> None:
    add_waiting(connection)
    connection.execute(
        "INSERT INTO tasks (type, next_retry_at) SELECT 't', now() - interval '1 s' FROM generate_series(1, 10)",
        within=5.0,
    )
    connection.execute("VACUUM ANALYZE tasks", within=60.0)
    upkeep.promote_due(recorder, limit=1000, within=60.0)
    assert buffers(recorder.plan()) < 10 * 30 + 30


def test_recovery_does_not_read_finished_or_pending_tasks(connection: Connection, recorder: Recorder) -> None:
    add_worker(connection)
    add_many(connection, 20_000)
    connection.execute("UPDATE tasks SET status = 'completed' WHERE random() < 0.5", within=60.0)
    claim(connection, 10)
    connection.execute("VACUUM ANALYZE tasks", within=60.0)
    connection.execute("UPDATE leadership SET term = 1, holder = 'w', expires_at = now() + interval '1 h'", within=5.0)
    upkeep.recover(recorder, term=1, holder="w", limit=100, within=60.0)
    assert buffers(recorder.plan()) < 100


def test_what_a_held_snapshot_keeps_of_ended_claims_costs_recovery_no_time_under_the_lease(
    connection: Connection, recorder: Recorder, database_url: str
) -> None:
    """Each is passed over when it looks for what is lost. The write that follows names what was found."""
    holder = Connection.open(database_url, within=10.0, application_name="test")
    holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM tasks", within=5.0)
    connection.execute("UPDATE leadership SET term = 1, holder = 'w', expires_at = now() + interval '1 h'", within=5.0)
    add_many(connection, 10_000, status="'claimed'", worker_id="'w'", slot="0", claim_token="1")
    connection.execute("UPDATE tasks SET status = 'completed'", within=60.0)
    add_many(connection, 1, status="'claimed'", worker_id="'w'", slot="0", claim_token="1")
    assert len(upkeep.recover(recorder, term=1, holder="w", limit=100, within=60.0)) == 1
    assert buffers(recorder.plan()) < 100
    holder.close()


def test_a_role_that_may_not_use_nested_loops_has_no_write_read_the_whole_table(
    connection: Connection, recorder: Recorder
) -> None:
    """As some set it for their reports."""
    add_worker(connection)
    add_many(connection, 30_000)
    connection.execute("VACUUM ANALYZE tasks", within=60.0)
    taken = claim(connection, 20)
    Connection.execute(recorder, "SET enable_nestloop = off", within=5.0)
    for write in (
        lambda: finish(recorder, [ending(one) for one in taken]),
        lambda: claims.release(recorder, [reference(one) for one in taken], within=60.0),
    ):
        write()
        used = [node for node in nodes(recorder.plan()["Plan"]) if node.get("Relation Name") == "tasks"]
        assert "Seq Scan" not in {node["Node Type"] for node in used}


@pytest.mark.parametrize("priority", [0, 5])
def test_a_claim_does_not_read_what_is_behind_its_limit(
    connection: Connection, recorder: Recorder, priority: int
) -> None:
    add_worker(connection)
    add_many(connection, 40_000)
    connection.execute(
        "INSERT INTO tasks (type, priority) SELECT 't', %(p)s FROM generate_series(1, 10)", {"p": priority}, within=5.0
    )
    connection.execute("VACUUM ANALYZE tasks", within=60.0)
    assert buffers(claim_plan(recorder, 10)) < 10 * 30 + 60


def test_a_held_snapshot_costs_a_claim_that_begins_where_the_last_ended_nothing(
    connection: Connection, recorder: Recorder, database_url: str
) -> None:
    """Whatever ends while some session holds a snapshot lies dead at the front of the index, and no vacuum helps."""
    holder = Connection.open(database_url, within=10.0, application_name="test")
    holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM tasks", within=5.0)
    add_worker(connection)
    add_many(connection, 22_000)
    place = None
    for _ in range(4):
        batch = claims.finish_and_claim(connection, [], worker_id="w", slot=0, limit=5_000, within=60.0, start=place)
        place = batch.last
        assert finish(connection, [ending(each) for each in batch.claims]).accepted == 5_000
    from_front, from_place = buffers(claim_plan(recorder, 20)), buffers(claim_plan(recorder, 20, start=place))
    assert holder.is_open
    assert from_front > from_place + 100
    assert from_place < 20 * 30
    holder.close()
