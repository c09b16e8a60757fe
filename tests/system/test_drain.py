"""The end of a worker: drained, hurried, or at once; nothing is lost, nothing stays, whatever the children do."""

import re
import signal
import threading
import time

import pytest

from tests.fixtures.daemon import Queue, Start
from tests.fixtures.fleet import SLACK
from tests.fixtures.gates import APP, Gates
from tests.fixtures.proc import is_alive
from tests.fixtures.waiting import eventually

UNTOUCHED = "SELECT count(*) FROM tasks WHERE status <> 'pending' OR attempts <> 0 OR worker_id IS NOT NULL"


def test_term_lets_running_tasks_finish_and_hands_back_the_rest(daemon: Start, queue: Queue, gates: Gates) -> None:
    worker = daemon(APP, "--pool-size", "1", DATABASE_URL=queue.url)
    held = queue.enqueue("hold")
    gates.wait_running("hold")
    waiting = queue.enqueue("quick")

    worker.signal(signal.SIGTERM)
    worker.wait_log("drain_started")
    eventually(lambda: worker.health()[0] == 503, within=15)
    gates.open("hold")

    assert worker.wait_exit(within=10) == 0
    assert queue.task(held)["status"] == "completed"
    assert queue.task(waiting)["status"] == "pending"
    assert queue.task(waiting)["attempts"] == 0
    assert queue.one("SELECT count(*) FROM workers") == 0


def test_a_drain_that_runs_out_of_time_requeues_what_runs_free_of_charge(
    daemon: Start, queue: Queue, gates: Gates
) -> None:
    worker = daemon(APP, "--pool-size", "3", "--shutdown-timeout", "1s", DATABASE_URL=queue.url)
    tasks = [queue.enqueue("hold"), queue.enqueue("hang"), queue.enqueue("spawn")]
    for name in ("hold", "hang", "spawn"):
        gates.wait_running(name)
    for task in tasks:
        queue.wait_status(task, "running")

    began = time.monotonic()
    worker.signal(signal.SIGTERM)

    assert worker.wait_exit(within=1 + 5 + SLACK) == 1
    assert time.monotonic() - began > 1
    assert queue.one(UNTOUCHED) == 0
    eventually(lambda: not is_alive(gates.sleeper()), within=15, why="it was killed, but nobody waits for its end")


@pytest.mark.parametrize(
    "signals",
    [
        (signal.SIGTERM, signal.SIGTERM),
        (signal.SIGQUIT,),
        pytest.param((signal.SIGINT, signal.SIGINT), marks=pytest.mark.slow),
    ],
)
def test_a_second_signal_or_quit_does_not_wait(
    daemon: Start, queue: Queue, gates: Gates, signals: tuple[signal.Signals, ...]
) -> None:
    worker = daemon(APP, "--pool-size", "2", DATABASE_URL=queue.url)
    queue.enqueue("hang")
    gates.wait_running("hang")

    worker.signal(signals[0])
    if len(signals) > 1:
        worker.wait_log("drain_started")
        worker.signal(signals[1])

    assert worker.wait_exit(within=5 + SLACK) == 1
    assert queue.one(UNTOUCHED) == 0


@pytest.mark.slow
def test_term_at_any_moment_of_the_start_ends_it_and_claims_nothing(daemon: Start, queue: Queue) -> None:
    for index in range(20):
        queue.enqueue("quick", idempotency_key=str(index))
    for moment in ("", "starting", "lease_acquired", "app_loaded", "worker_registered"):
        worker = daemon(APP, "--pool-size", "4", is_awaited=False, DATABASE_URL=queue.url)
        if moment:
            worker.wait_log(moment)
        worker.signal(signal.SIGTERM)
        # before anything of ours runs, the signal has its default effect
        assert worker.wait_exit(within=10) in ((0, -signal.SIGTERM) if not moment else (0,))

    assert queue.one("SELECT count(*) FROM tasks WHERE status IN ('claimed', 'running')") == 0
    assert queue.one("SELECT count(*) FROM tasks WHERE attempts > 1") == 0
    assert queue.one("SELECT count(*) FROM workers") == 0


def test_term_at_many_moments_ends_it_in_time_with_children_hung_in_c_and_uses_no_attempt(
    daemon: Start, queue: Queue
) -> None:
    end_at_moments(daemon, queue, moments=4)


@pytest.mark.slow
def test_term_at_still_more_moments(daemon: Start, queue: Queue) -> None:
    end_at_moments(daemon, queue, moments=100)


def end_at_moments(daemon: Start, queue: Queue, *, moments: int) -> None:
    """TERM, every other time twice, at moments that are spread from exec to a little after the first tasks run."""
    options = ("--pool-size", "3", "--shutdown-timeout", "100ms")
    began = time.monotonic()
    first = daemon(APP, *options, DATABASE_URL=queue.url)
    ready_seconds = time.monotonic() - began
    first.stop()
    queue.rows("INSERT INTO tasks (type, max_retries) SELECT 'hang', 0 FROM generate_series(1, 8)")
    for index in range(moments):
        moment = 1.2 * ready_seconds * index / moments
        worker = daemon(APP, *options, is_awaited=False, DATABASE_URL=queue.url)
        delays = (moment, moment + 0.03) if index % 2 else (moment,)
        timers = [threading.Timer(delay, worker.process.send_signal, [signal.SIGTERM]) for delay in delays]
        for timer in timers:
            timer.start()

        code = worker.wait_exit(within=moment + 0.1 + 5 + SLACK)
        for timer in timers:
            timer.join()
        # before anything of ours runs, the signal has its default effect
        assert code in (0, 1, -signal.SIGTERM), worker.log()
        assert (code == 1) == bool(re.search("requeued=[1-9]", worker.log()))
        assert queue.one(UNTOUCHED) == 0, worker.log()
        assert queue.one("SELECT count(*) FROM workers") == 0
        assert "Traceback" not in worker.log()


def test_quit_in_the_midst_of_many_short_tasks_leaves_none_claimed(daemon: Start, queue: Queue) -> None:
    quit_in_the_midst(daemon, queue, rounds=2)


def test_what_a_killed_child_was_claiming_is_not_left_claimed_when_the_claim_commits_late(
    daemon: Start, queue: Queue
) -> None:
    """The server waits with each claim for the test: its child is killed meanwhile, the server goes on with it."""
    worker = daemon(APP, "--pool-size", "2", DATABASE_URL=queue.url)
    queue.rows(
        """
        CREATE TABLE waits ();
        CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN WHILE EXISTS (SELECT FROM waits) LOOP PERFORM pg_sleep(0.01); END LOOP; RETURN NEW; END';
        CREATE TRIGGER dawdle BEFORE UPDATE ON tasks FOR EACH ROW WHEN (NEW.status = 'claimed')
            EXECUTE FUNCTION dawdle();
        INSERT INTO waits DEFAULT VALUES;
        INSERT INTO tasks (type) VALUES ('quick')
        """
    )
    claiming = """
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND state = 'active' AND wait_event = 'PgSleep'
    """
    eventually(lambda: queue.one(claiming) > 0, within=20)
    worker.signal(signal.SIGQUIT)
    eventually(lambda: not worker.children(), within=20, why="they are killed")
    queue.rows("DELETE FROM waits")

    assert worker.wait_exit(within=5 + SLACK) in (0, 1)
    assert queue.one(claiming) == 0
    assert queue.rows("SELECT status::text, attempts FROM tasks") == [("pending", 0)]
    assert "claims_released reason=unknown_claim released=1" in worker.log()


@pytest.mark.slow
def test_quit_again_and_again_in_the_midst_of_many_short_tasks(daemon: Start, queue: Queue) -> None:
    quit_in_the_midst(daemon, queue, rounds=60)


def quit_in_the_midst(daemon: Start, queue: Queue, *, rounds: int) -> None:
    """Children are killed in the middle of claims whose replies nobody reads."""
    for _ in range(rounds):
        queue.rows("INSERT INTO tasks (type) SELECT 'quick' FROM generate_series(1, 2000)")
        worker = daemon(APP, "--pool-size", "6", DATABASE_URL=queue.url)
        eventually(lambda: queue.one("SELECT count(*) FROM tasks WHERE status = 'completed'") > 300, within=20)
        worker.signal(signal.SIGQUIT)

        assert worker.wait_exit(within=5 + SLACK) in (0, 1)
        assert queue.rows("SELECT id, status::text FROM tasks WHERE status IN ('claimed', 'running')") == []
        assert queue.one("SELECT count(*) FROM tasks WHERE status = 'pending' AND attempts > 0") == 0
        queue.rows("TRUNCATE tasks")
