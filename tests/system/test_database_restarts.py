"""The database crashes, stops and comes back while tasks run: they finish, and their outcomes are kept and written."""

from pathlib import Path

import pytest

from orchestrator.dev.postgres import PrivatePostgres
from tests.fixtures.daemon import Queue, Start
from tests.fixtures.fleet import SLACK
from tests.fixtures.gates import APP, Gates
from tests.fixtures.waiting import eventually


@pytest.mark.parametrize("end", ["crash", pytest.param("stop", marks=pytest.mark.slow)])
def test_what_finishes_meanwhile_is_written_once_when_it_is_back(
    daemon: Start, private_postgres: PrivatePostgres, tmp_path: Path, end: str
) -> None:
    gates = Gates(tmp_path)
    worker = daemon(APP, "--pool-size", "3", DATABASE_URL=private_postgres.url())
    before = Queue(private_postgres.url())
    held = [before.enqueue("hold", {"name": name}, max_retries=0) for name in ("one", "two")]
    pids = [gates.wait_running(name) for name in ("one", "two")]
    for task in held:
        before.wait_status(task, "running")  # from then on no crash of the server forgets its claim
    before.connection.close()

    getattr(private_postgres, end)()
    eventually(lambda: worker.health()[0] == 503, within=20, why="the outage shows")
    gates.open("one")
    gates.open("two")
    assert set(pids) <= set(worker.children().values()), "the children live on"
    private_postgres.start()

    queue = Queue(private_postgres.url())
    try:
        for task, pid in zip(held, pids, strict=True):
            done = queue.wait_status(task, "completed")
            assert done["attempts"] == 1
            assert done["result"]["pid"] == pid
        assert queue.wait_status(queue.enqueue("quick"), "completed")["attempts"] == 1
        eventually(lambda: worker.health()[0] == 200, within=20)
        assert worker.children().keys() == {0, 1, 2}
    finally:
        queue.connection.close()


def test_a_drain_while_the_database_is_away_ends_in_time(
    daemon: Start, private_postgres: PrivatePostgres, tmp_path: Path
) -> None:
    gates = Gates(tmp_path)
    worker = daemon(APP, "--pool-size", "2", "--shutdown-timeout", "1s", DATABASE_URL=private_postgres.url())
    before = Queue(private_postgres.url())
    before.enqueue("hold")
    gates.wait_running("hold")
    before.connection.close()
    private_postgres.crash()
    gates.open("hold")

    assert worker.stop(within=1 + 5 + SLACK) == 1
    assert "drain_incomplete" in worker.log()
