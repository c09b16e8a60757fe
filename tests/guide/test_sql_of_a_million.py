"""The guide's count of pending tasks by type over a million tasks: it reads the pending ones, not the table."""

import json
from typing import Any

import pytest

from orchestrator.store.connection import Connection
from tests.guide.text import code

PENDING_BY_TYPE = code("Pending tasks by type").removeprefix("-- Pending tasks by type")
MILLION, PENDING = 1_000_000, 10_000
COMPLETED = """
INSERT INTO tasks (type, status, completed_at) SELECT 't', 'completed', now() FROM generate_series(1, %(n)s)
"""
PENDING_IN_EACH_WAY = """
INSERT INTO tasks (type, next_retry_at)
SELECT 'type ' || n %% 5, CASE WHEN n %% 2 = 0 THEN now() + interval '1 day' END FROM generate_series(1, %(n)s) AS n
"""


def nodes(node: dict[str, Any]) -> list[dict[str, Any]]:
    return [node, *(below for child in node.get("Plans", []) for below in nodes(child))]


@pytest.mark.slow
def test_pending_tasks_by_type_are_read_from_an_index(connection: Connection) -> None:
    connection.execute("ALTER TABLE tasks SET (autovacuum_enabled = off)", within=5.0)
    connection.execute(COMPLETED, {"n": MILLION - PENDING}, within=300.0)
    connection.execute(PENDING_IN_EACH_WAY, {"n": PENDING}, within=60.0)
    connection.execute("VACUUM ANALYZE tasks", within=300.0)

    assert dict(connection.execute(PENDING_BY_TYPE, within=5.0)) == {f"type {n}": PENDING // 5 for n in range(5)}
    ((explained,),) = connection.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {PENDING_BY_TYPE}", within=60.0)
    (plan,) = json.loads(explained) if isinstance(explained, str) else explained
    assert "idx_tasks_claimable" in {each.get("Index Name") for each in nodes(plan["Plan"])}
    table = connection.execute("SELECT pg_relation_size('tasks') / 8192", within=5.0)[0][0]
    read = plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"]
    assert read < table / 20, f"{read} pages of {table}"
