"""The app of docs/handlers.md, through the real daemon: what the page says of it is what one sees."""

import re
from pathlib import Path

from tests.fixtures.daemon import Daemon, Queue, Start

PAGE = (Path(__file__).parents[2] / "docs" / "handlers.md").read_text()
[APP] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def billing(daemon: Start, queue: Queue, pool_size: int = 2) -> Daemon:
    queue.rows("CREATE TABLE payments (task_id uuid PRIMARY KEY, invoice integer, cents integer)")
    return daemon(APP, "--pool-size", str(pool_size), DATABASE_URL=queue.url)


def test_a_payment_is_stored_once_however_often_its_task_runs(daemon: Start, queue: Queue) -> None:
    worker = billing(daemon, queue)
    task_id = queue.enqueue("invoice:pay", {"invoice": 17, "cents": 100})

    task = queue.wait_status(task_id, "completed")
    assert task["result"] == {"invoice": 17, "currency": "EUR"}
    assert f"task_id={task_id}" in worker.wait_log("invoice 17 is paid")
    queue.rows("UPDATE tasks SET status = 'pending' WHERE id = %s", task_id)  # as the operations guide has it

    queue.wait_status(task_id, "completed")
    assert queue.rows("SELECT invoice, cents FROM payments") == [(17, 100)]


def test_a_lost_connection_fails_one_task_and_not_every_one_after_it(daemon: Start, queue: Queue) -> None:
    billing(daemon, queue, pool_size=1)
    queue.wait_status(queue.enqueue("invoice:pay", {"invoice": 1, "cents": 100}), "completed")
    lost = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
    assert queue.rows(f"{lost} AND application_name = '' AND pid <> pg_backend_pid()") == [(True,)]

    unlucky, next_one = (queue.enqueue("invoice:pay", {"invoice": n, "cents": 100}) for n in (2, 3))

    assert queue.wait_status(next_one, "completed")["attempts"] == 1
    assert queue.task(unlucky)["attempts"] >= 1


def test_it_ends_as_the_table_says(daemon: Start, queue: Queue) -> None:
    billing(daemon, queue)
    free, unknown = (
        queue.enqueue("invoice:pay", payload) for payload in ({"invoice": 1, "cents": 0}, {"invoice": 1, "euros": 1})
    )
    reminder = queue.enqueue("invoice:remind", {"invoice": 1})

    assert "invoice 1 has nothing to pay" in queue.wait_status(free, "failed")["last_error"]
    refused = queue.wait_status(unknown, "failed")["last_error"]
    assert "missing cents" in refused and "unknown euros" in refused
    assert queue.wait_status(reminder, "completed")["attempts"] == 2
