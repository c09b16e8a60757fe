"""`kill -9` of the supervisor: nothing survives it, and the next start takes over at once and finishes everything."""

import signal
import time

from tests.fixtures.daemon import Queue, Start
from tests.fixtures.gates import APP, Gates
from tests.fixtures.proc import is_alive
from tests.fixtures.waiting import eventually

ONE_BURST = """
INSERT INTO tasks (type, payload)
SELECT CASE n WHEN 60 THEN 'hold' ELSE 'quick' END, CASE n WHEN 60 THEN '{"name": "c"}' ELSE '{}' END::jsonb
FROM generate_series(1, 100) AS n
"""


def test_a_killed_supervisor_takes_its_children_along_and_the_next_finishes_what_it_left(
    daemon: Start, queue: Queue, gates: Gates
) -> None:
    first = daemon(APP, "--pool-size", "3", DATABASE_URL=queue.url)
    name = first.health()[1]["worker_id"]
    running, last_try = queue.enqueue("spawn"), queue.enqueue("hang", max_retries=0)
    for each, task_id in (("spawn", running), ("hang", last_try)):
        gates.wait_running(each)
        queue.wait_status(task_id, "running")
    queue.enqueue("hold", {"name": "b"})
    gates.wait_running("b")
    everybody = [*first.children().values(), first.forkserver()]
    assert len(everybody) == 4

    queue.rows(ONE_BURST)
    first.signal(signal.SIGSTOP)  # so that what is claimed is not handed back while `c` blocks it
    gates.open("b")
    gates.wait_running("c")
    claimed = "SELECT count(*) FROM tasks WHERE status = 'claimed'"
    assert queue.one(claimed) > 1

    killed_at = time.monotonic()
    first.signal(signal.SIGKILL)  # not reaped yet: once its pid is gone, each worker that starts here, another test's
    # too, ends what it has left
    eventually(lambda: not any(map(is_alive, everybody)), within=15, why="its children are gone")
    left = queue.rows("SELECT id::text FROM tasks WHERE status = 'claimed'")
    assert is_alive(gates.sleeper()), "a session of its own outlives the child"
    first.process.wait(5)

    second = daemon(APP, "--pool-size", "3", DATABASE_URL=queue.url)
    assert time.monotonic() - killed_at < 20, "its lease would have lasted longer"
    assert "instance_replaced" in second.log()
    assert "waiting_for_instance" not in second.log()
    assert not is_alive(gates.sleeper()), "what its tasks started does not go on beside their next attempt"
    gates.open("c")
    queue.wait_empty(within=20)

    ended = "SELECT status::text, count(*) FROM tasks GROUP BY status ORDER BY status"
    assert queue.rows(ended) == [("completed", 102), ("dead_letter", 1)]
    for task_id, attempts in ((running, 2), (last_try, 1)):
        task = queue.task(task_id)
        assert task["attempts"] == attempts
        assert task["last_error"] == f"worker {name} died while it ran this task, attempt 1"
    assert queue.task(last_try)["status"] == "dead_letter"
    recovered = "SELECT id::text FROM tasks WHERE recoveries = 1 AND attempts = 1"
    assert sorted(queue.rows(recovered)) == sorted(left), "a merely claimed task pays nothing"
    assert queue.one("SELECT count(*) FROM tasks WHERE recoveries = 0 AND attempts = 1") == 102 - len(left)
    assert queue.rows("SELECT id FROM workers") == [(second.health()[1]["worker_id"],)]
    assert second.metric("tasks_recovered_total", type="spawn") == 1
    assert second.metric("task_retries_total", type="spawn", attempt="1") == 1
    assert second.metric("tasks_dead_letter_total", type="hang") == 1
    assert second.stop() == 0


def test_a_supervisor_killed_again_and_again_uses_no_attempt_of_what_was_only_claimed_and_ends_all(
    daemon: Start, queue: Queue
) -> None:
    queue.rows("INSERT INTO tasks (type, payload) SELECT 'quick', '{}' FROM generate_series(1, 300)")
    for _ in range(2):
        worker = daemon(APP, "--pool-size", "2", is_awaited=False, DATABASE_URL=queue.url)
        worker.wait_log("app_loaded")
        worker.kill()
    last = daemon(APP, "--pool-size", "2", DATABASE_URL=queue.url)
    queue.wait_empty(within=20)

    assert queue.rows("SELECT DISTINCT status::text, attempts FROM tasks") == [("completed", 1)]
    assert last.stop() == 0
    assert queue.one("SELECT count(*) FROM workers") == 0
