"""What the leader's counts and retention and a list cost is read from their plans: what it is about and no more.

The tables are as autovacuum has not seen them yet after a burst, or as it has.
"""

import pytest

from orchestrator.model import TaskStatus
from orchestrator.store import arrivals, retention, statistics, tasks
from orchestrator.store.arrivals import EnqueuedCount
from orchestrator.store.connection import Connection
from tests.store.plans import Recorder, buffers, nodes
from tests.store.rows import add_many

ROWS = 30_000


@pytest.fixture(params=["analyzed", "unseen"], autouse=True)
def is_analyzed(request: pytest.FixtureRequest, connection: Connection) -> bool:
    connection.execute("ALTER TABLE tasks SET (autovacuum_enabled = off)", within=5.0)
    return bool(request.param == "analyzed")


def test_a_step_of_counting_what_was_enqueued_reads_no_further_than_its_limit(
    connection: Connection, recorder: Recorder, term: int, is_analyzed: bool
) -> None:
    def count(after: str | None, up_to: float) -> EnqueuedCount | None:
        return arrivals.count_enqueued(
            recorder, term=term, holder="leader", after=after, up_to=up_to, within=60.0, limit=1000
        )

    beginning = count(None, 0.0)
    assert beginning is not None
    add_many(connection, ROWS)
    connection.execute("ANALYZE tasks" if is_analyzed else "SELECT", within=60.0)
    found = count(beginning.counted_to, arrivals.sample(connection, within=5.0).clock)
    assert found is not None and found.by_type == (("t", 1000),) and not found.is_complete
    plan = recorder.plan()
    assert "Sort" not in {node["Node Type"] for node in nodes(plan["Plan"])}
    assert buffers(plan) < 1000 + 100


@pytest.mark.parametrize("may_nest", ["on", "off"])
def test_a_step_of_retention_reads_no_further_than_its_stretch(
    connection: Connection, recorder: Recorder, term: int, is_analyzed: bool, may_nest: str
) -> None:
    connection.execute(
        """
        INSERT INTO tasks (id, type, status, created_at, completed_at)
        SELECT overlay(orchestrator_id_at(now() - interval '9 days' + g * interval '1 second')::text
                       PLACING lpad(to_hex(g), 12, '0') FROM 25)::uuid,
            't', 'completed', now() - interval '9 days', now() - interval '8 days'
        FROM generate_series(1, %(rows)s) AS g
        """,
        {"rows": ROWS},
        within=60.0,
    )
    connection.execute("ANALYZE tasks" if is_analyzed else "SELECT", within=60.0)
    Connection.execute(recorder, f"SET enable_nestloop = {may_nest}", within=5.0)  # a role's, for its reports
    step = retention.prune(
        recorder, term=term, holder="leader", keep_seconds=7 * 86400, after=retention.START, limit=1000, within=60.0
    )
    assert step.deleted == 1000
    plan = recorder.plan()
    walked = [node for node in nodes(plan["Plan"]) if node.get("Relation Name") == "tasks"]
    assert max(node["Actual Rows"] for node in walked) == 1000
    assert buffers(plan) < 1000 * 30


def test_the_counts_are_the_work_of_one_process_that_sorts_nothing(
    connection: Connection, recorder: Recorder, is_analyzed: bool
) -> None:
    """Parallel workers would take the cores from the tasks, and what the planner doesn't know of yet it would sort."""
    add_many(connection, ROWS)
    connection.execute("ANALYZE tasks" if is_analyzed else "SELECT", within=60.0)
    recorder.execute("SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0", within=5.0)
    recorder.execute("SET min_parallel_table_scan_size = 0; SET min_parallel_index_scan_size = 0", within=5.0)
    assert statistics.counts(recorder, within=60.0) == [("t", TaskStatus.PENDING, ROWS, pytest.approx(30, abs=30))]
    kinds = {node["Node Type"] for node in nodes(recorder.plan()["Plan"])}
    assert not kinds & {"Gather", "Gather Merge", "Sort"}


def test_a_list_of_the_newest_tasks_reads_no_more_than_these(
    connection: Connection, recorder: Recorder, is_analyzed: bool
) -> None:
    add_many(connection, 10, status="'dead_letter'")
    add_many(connection, ROWS)
    connection.execute("ANALYZE tasks" if is_analyzed else "SELECT", within=60.0)
    for status, count in ((None, 50), (TaskStatus.DEAD_LETTER, 10)):
        assert len(tasks.list_tasks(recorder, status=status, type=None, limit=50, within=60.0)) == count
        assert buffers(recorder.plan()) < 200
