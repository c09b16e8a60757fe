"""What PostgreSQL alone can do: pgbench sends the statements, nobody runs anything."""

import os
import re
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.server import Server

# The least that a queue with these columns, indexes and guarantees must do: finish the last batch, claim the next.
# BETWEEN keeps PostgreSQL from reading idx_tasks_owned instead of looking the ids up, which costs a third more.
DRAIN = """
WITH finished AS (
    UPDATE tasks SET status = 'completed', attempts = 1, ended_token = claim_token, started_at = now(),
        completed_at = now(), result = {result}, updated_at = now()
    WHERE id = ANY (CAST(:ids AS uuid[])) AND status BETWEEN 'claimed' AND 'running'
), ready AS MATERIALIZED (
    SELECT id FROM tasks WHERE status = 'pending' AND next_retry_at IS NULL
    ORDER BY priority DESC, created_at LIMIT {batch} FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE tasks AS t SET status = 'claimed', claim_token = nextval('claim_tokens'), worker_id = 'pgbench', slot = 0,
        claimed_at = now(), updated_at = now()
    FROM ready WHERE t.id = ANY (ARRAY[ready.id])
    RETURNING t.id, t.payload::text
)
SELECT coalesce(array_agg(id), '{{}}')::text AS ids FROM claimed \\gset
"""
INSERT = "INSERT INTO tasks (type, payload) VALUES ('noop', '{\"n\": 1}') RETURNING id;\n"


def drain(server: Server, batch: int, tasks: int, *, result: str = "NULL", clients: int = 10) -> int:
    """Empties the queue in batches and says how many tasks were finished, with this `result` (SQL).

    Each client has rounds to spare, for they do not all get as far. One that uses up its last has claimed in vain.
    """
    script = "SET enable_seqscan = off;\n" + DRAIN.format(batch=batch, result=result)
    _run(server, script, clients, transactions=2 * tasks // (batch * clients) + 12, variables={"ids": "{}"})
    left: int = server.rows("SELECT count(*) FROM tasks WHERE status <> 'completed'")[0][0]
    if left > max(batch * clients, tasks // 100):
        raise SystemExit(f"pgbench left {left} tasks")
    return tasks - left


def inserts_per_second(server: Server, count: int) -> float:
    """Bare INSERTs of one client, each a commit."""
    answer = _run(server, INSERT, 1, transactions=count)
    found = re.search(r"tps = ([0-9.]+) \(without", answer)
    assert found is not None, answer
    return float(found[1])


def _run(server: Server, script: str, clients: int, transactions: int, variables: dict[str, str] | None = None) -> str:
    assert server.pgbench is not None
    with TemporaryDirectory(prefix="orchestrator-bench-") as folder:
        file = Path(folder) / "script"
        file.write_text(script)
        command = [server.pgbench, "--no-vacuum", "--protocol=prepared"]
        command += [f"--client={clients}", f"--transactions={transactions}", f"--file={file}"]
        command += [f"--define={name}={value}" for name, value in (variables or {}).items()]
        environ = {"PATH": os.environ["PATH"], "PGOPTIONS": "-c plan_cache_mode=force_generic_plan"}
        result = subprocess.run([*command, server.url], env=environ, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise SystemExit(f"pgbench failed: {result.stderr.strip()}")
    return result.stdout
