"""The network before the database loses replies or falls silent: nothing is lost, run twice or counted twice."""

from collections import Counter
from pathlib import Path

import pytest

from orchestrator.dev.postgres import PrivatePostgres
from tests.fixtures.daemon import Start
from tests.fixtures.proxy import Proxy
from tests.fixtures.waiting import eventually
from tests.fixtures.working import (
    SHORT,
    WORKING,
    all_ran_once,
    enqueue_numbers,
    leader_status,
    notes,
    queue_at,
    wait_counted,
)


def test_a_claim_whose_reply_is_lost_is_found_and_run(
    private_postgres_tcp: PrivatePostgres, proxy: Proxy, daemon: Start, tmp_path: Path
) -> None:
    queue = queue_at(private_postgres_tcp.url())
    worker = daemon(WORKING, "--pool-size", "2", *SHORT, DATABASE_URL=proxy.url)
    queue.wait_status(queue.enqueue("quick", {"n": 0}), "completed")
    quiet = """
        SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'orchestratord child%'
          AND state = 'idle' AND state_change < clock_timestamp() - interval '300 ms'
    """
    eventually(lambda: queue.one(quiet) == 2, within=20, why="no child waits for a reply already")

    proxy.lose_replies("child")
    task_id = queue.enqueue("quick", {"n": 1})
    queue.wait_status(task_id, "claimed")
    eventually(
        lambda: proxy.lost("child") > 0, within=15, why="the reply is lost; the claim was to be seen before that"
    )
    assert notes(tmp_path)["ran 1"] == 0, "nobody knows of the claim"
    proxy.heal()

    task = queue.wait_status(task_id, "completed")
    assert task["attempts"] == 1
    assert notes(tmp_path) == Counter(["ran 0", "ran 1"])
    assert "unknown_claims_released" in worker.log()
    queue.connection.close()


def test_an_outcome_whose_reply_is_lost_is_written_and_counted_once(
    private_postgres_tcp: PrivatePostgres, proxy: Proxy, daemon: Start, tmp_path: Path
) -> None:
    queue = queue_at(private_postgres_tcp.url())
    worker = daemon(WORKING, "--pool-size", "2", *SHORT, DATABASE_URL=proxy.url)
    tasks = {n: queue.enqueue("wait", {"n": n, "until": "go", "size": size}) for n, size in ((1, 1), (2, 100 << 10))}
    for task_id in tasks.values():
        queue.wait_status(task_id, "running")

    proxy.lose_replies("child")
    (tmp_path / "go").touch()
    for task_id in tasks.values():
        queue.wait_status(task_id, "completed")
    eventually(lambda: proxy.lost("child") == 2, within=15, why="the replies are lost")
    proxy.heal()
    queue.wait_status(queue.enqueue("quick", {"n": 3}), "completed")

    for task_id in tasks.values():
        assert queue.task(task_id)["attempts"] == 1
    wait_counted(worker, 2, "tasks_completed_total", type="wait", status="success")
    assert worker.metric("tasks_stale_completions_total", type="wait") == 0
    assert "stale_outcome" not in worker.log()
    assert notes(tmp_path) == Counter(["began 1", "began 2", "ended 1", "ended 2", "ran 3"])
    queue.connection.close()


def test_a_network_that_falls_silent_is_said_and_survived(
    private_postgres_tcp: PrivatePostgres, proxy: Proxy, daemon: Start, tmp_path: Path
) -> None:
    queue = queue_at(private_postgres_tcp.url())
    tasks = [queue.enqueue("wait", {"n": n, "until": "go"}) for n in (1, 2)]
    worker = daemon(WORKING, "--pool-size", "3", *SHORT, DATABASE_URL=proxy.url)
    for task_id in tasks:
        queue.wait_status(task_id, "running")

    proxy.silence()
    (tmp_path / "go").touch()
    later = queue.enqueue("quick", {"n": 3})
    eventually(lambda: worker.health()[0] == 503, within=20, why="the page says that the database does not answer")
    eventually(lambda: leader_status(worker) == 0, within=5, why="a lease that cannot be renewed is not trusted")
    proxy.heal()

    for task_id in tasks:
        task = queue.wait_status(task_id, "completed")
        assert task["attempts"] == 1
    queue.wait_status(later, "completed")
    assert max(notes(tmp_path).values()) == 1
    eventually(lambda: worker.health()[0] == 200, within=20)
    assert worker.stop() == 0
    queue.connection.close()


@pytest.mark.slow
def test_nobody_waits_for_ever_for_what_a_silent_network_swallowed(
    private_postgres_tcp: PrivatePostgres, proxy: Proxy, daemon: Start, tmp_path: Path
) -> None:
    queue = queue_at(private_postgres_tcp.url())
    enqueue_numbers(queue, "brief", 600)
    worker = daemon(WORKING, "--pool-size", "3", *SHORT, DATABASE_URL=proxy.url)
    eventually(lambda: notes(tmp_path).total() >= 200, within=20)

    proxy.silence()
    eventually(lambda: worker.health()[0] == 503, within=20)
    proxy.heal(is_told=False)

    queue.wait_empty(within=60)  # a child gives its statement up after 20 s
    all_ran_once(queue, tmp_path, 600)
    wait_counted(worker, 600, "tasks_completed_total", type="brief", status="success")
    eventually(lambda: worker.health()[0] == 200, within=20)
    assert worker.stop() == 0
    queue.connection.close()
