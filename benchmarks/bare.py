"""The least that a queue in Python can do: claim, call, finish, in batches of 100. No worker, no child that may die.

One statement finishes the last batch and claims the next, in one commit, fenced by the claims' tokens; the payload is
read, the call needs a permission from an eventfd, and its time is taken.
"""

import json
import os
import resource
import time
from collections.abc import Callable, Mapping

import psycopg2
import psycopg2.errors

from benchmarks.processes import in_processes
from benchmarks.server import Server

BATCH = 100

_PREPARE = """
SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off;
PREPARE finish_and_claim (uuid[], bigint[], float8[]) AS
WITH finished AS (
    UPDATE tasks AS t SET status = 'completed', attempts = 1, ended_token = o.token, updated_at = now(),
        started_at = now() - o.seconds * interval '1 second', completed_at = now()
    FROM unnest($1, $2, $3) AS o (id, token, seconds)
    WHERE t.id = ANY (ARRAY[o.id]) AND t.claim_token = o.token AND t.status BETWEEN 'claimed' AND 'running'
), ready AS MATERIALIZED (
    SELECT id FROM tasks WHERE status = 'pending' AND next_retry_at IS NULL
    ORDER BY priority DESC, created_at LIMIT {batch} FOR UPDATE SKIP LOCKED
)
UPDATE tasks AS t SET status = 'claimed', claim_token = nextval('claim_tokens'), worker_id = 'bare', slot = 0,
    claimed_at = now(), updated_at = now()
FROM ready WHERE t.id = ANY (ARRAY[ready.id])
RETURNING t.id::text, t.type, t.payload::text, t.claim_token
"""


def drain(server: Server, processes: int) -> float:
    """Empties the queue of no-ops; the seconds of CPU that Python took for it, all in all."""
    before = _childrens_seconds()
    in_processes(processes, lambda: _work(server.url))
    return _childrens_seconds() - before


def _childrens_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _noop(**_: object) -> None:
    pass


def _work(url: str) -> None:
    handlers: Mapping[str, Callable[..., None]] = {"noop": _noop}
    permits = os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_NONBLOCK)
    connection = psycopg2.connect(url)
    connection.autocommit = True
    cursor = connection.cursor()
    cursor.execute(_PREPARE.format(batch=BATCH))
    ids: list[str] = []
    tokens: list[int] = []
    seconds: list[float] = []
    while True:
        try:
            cursor.execute("EXECUTE finish_and_claim (%s::uuid[], %s, %s)", (ids, tokens, seconds))
        except psycopg2.errors.DeadlockDetected:  # one claims what another finishes, each for both
            continue
        claims = cursor.fetchall()
        if not claims and not ids:
            return
        ids, tokens, seconds = [], [], []
        if claims:
            os.eventfd_write(permits, len(claims))
        for task_id, type_name, payload, token in claims:
            os.eventfd_read(permits)
            began = time.perf_counter()
            handlers[type_name](**json.loads(payload))
            seconds.append(time.perf_counter() - began)
            ids.append(task_id)
            tokens.append(token)
